"""Masks applied by their bits: exact, tight, and differentiable more than once."""

import pytest
import torch

from sparselth.ops.bitmask import ApplyBits, apply_bits, bits_of

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_where_without_branches(dtype, layout):
    values = torch.randn(4, 3, 2, 2, dtype=dtype).contiguous(memory_format=layout)
    mask = (torch.rand(4, 3, 2, 2) < 0.5).contiguous(memory_format=layout)
    values[0, 0, 0, 0], values[1, 1, 1, 1], values[2, 2, 0, 0] = float("nan"), float("inf"), -0.0
    got, want = apply_bits(values, bits_of(mask, values)), torch.where(mask, values, 0.0)
    assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))
    assert got.stride() == values.stride()
    assert not apply_bits(values, bits_of(mask, values))[~mask].any()


def test_gradients():
    values = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    bits = bits_of(torch.rand(5, 4) < 0.5, torch.empty(5, 4, dtype=torch.float64))
    assert torch.autograd.gradcheck(ApplyBits.apply, (values, bits))
    assert torch.autograd.gradgradcheck(lambda v: ApplyBits.apply(v, bits).sin(), (values,))
