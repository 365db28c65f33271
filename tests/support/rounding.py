"""Values that are hard to round to 16 bits, and results that must have torch's bits."""

import torch


def hard_to_round(dtype):
    """Return float32 values: of all sizes, ties of every place, limits, denormals and NaNs.

    dtype: what they will be rounded to, bfloat16 or float16.
    """
    kept = {torch.bfloat16: 16, torch.float16: 13}[dtype]  # of 32 bits not these lowest
    bits = torch.randint(-(2**31), 2**31, (4096,))
    if dtype == torch.float16:
        exponents = torch.randint(127 - 27, 127 + 18, bits.shape)
        bits = (bits & ~(0xFF << 23)) | exponents << 23
    bits[::2] = (bits[::2] & ~((1 << kept) - 1)) | 1 << (kept - 1)
    special = [0x7F800001, 0x7FFFFFFF, -0x7FFFFF, 0x7F7FFFFF, 1, -0x7FFF8000, 0x7F800000]
    bits[: len(special)] = torch.tensor(special)
    info = torch.finfo(dtype)
    denormal = info.smallest_normal * info.eps
    ties = (torch.arange(1024) + 0.5) * denormal if dtype == torch.float16 else torch.zeros(0)
    largest = torch.tensor([1, 1 + info.eps / 4, 1 + info.eps / 2]) * info.max
    return torch.cat([bits.to(torch.int32).view(torch.float32), ties, -ties, largest, -largest])


def assert_equal_bits(got, want):
    """Compare tensors of 16 bits; a NaN may be any."""
    nan = want.isnan()
    assert torch.equal(got.isnan(), nan)
    assert torch.equal(got.view(torch.int16)[~nan], want.view(torch.int16)[~nan])
