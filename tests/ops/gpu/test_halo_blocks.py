"""Masks as blocks of 32 x 32: the plan lists each that keeps anything once, where a warp looks."""

import pytest
import torch
from hypothesis import given, settings
from support.strategies import conv_cases

from sparselth.ops import reference
from sparselth.ops.gpu import halo_blocks
from sparselth.ops.gpu.halo_blocks import HaloBlocks, all_passes_fit, find_halo_blocks

CONV = ([1, 1], [1, 1], [1, 1], 1)


def listed(plan, rows, columns, kernel, by_input):
    """Walk a plan as the kernel does; yield (first row, first column, tap row, tap column)."""
    row_blocks, chunks = -(-rows // 32), -(-columns // 32)
    starts = plan[: row_blocks * chunks + 1].tolist()
    codes, runs = plan[row_blocks * chunks + 1 :].view(2, -1).tolist()
    assert starts[0] == 0
    assert starts[-1] == len(codes)
    for run in range(row_blocks * chunks):
        for at in range(starts[run], starts[run + 1]):
            assert runs[at] == run
            tap = (codes[at] & 255, codes[at] >> 8)
            if by_input:  # seen from the input, the taps are turned around
                tap = (kernel[0] - 1 - tap[0], kernel[1] - 1 - tap[1])
            yield run // chunks * 32, run % chunks * 32, *tap


@given(case=conv_cases(extent=40))
@settings(max_examples=60)
def test_every_kept_weight_is_in_one_block(case):
    _, _, mask, _ = case.tensors()
    for by_input, plan in enumerate(find_halo_blocks(mask)):
        rows_first = mask.transpose(0, 1) if by_input else mask
        covered = torch.zeros_like(rows_first)
        walk = listed(plan, *rows_first.shape[:2], mask.shape[2:], bool(by_input))
        for row, column, tap_row, tap_column in walk:
            block = (slice(row, row + 32), slice(column, column + 32), tap_row, tap_column)
            assert rows_first[block].any()
            assert not covered[block].any()
            covered[block] = True
        assert not (rows_first & ~covered).any()


@pytest.mark.parametrize(
    ("kernel", "hw", "conv", "fits"),
    [
        ((3, 3), (56, 56), CONV, True),
        ((3, 3), (7, 7), CONV, True),
        ((1, 1), (1, 5000), ([1, 1], [0, 0], [1, 1], 1), True),
        ((3, 3), (56, 56), ([2, 2], [1, 1], [1, 1], 1), True),
        ((5, 5), (64, 64), ([1, 1], [24, 24], [12, 12], 1), False),
        ((3, 3), (64, 64), ([4, 4], [1, 1], [1, 1], 1), False),
        ((1, 300), (1, 400), CONV, False),
    ],
)
def test_what_fits_into_shared_memory(kernel, hw, conv, fits):
    assert all_passes_fit((64, 64, *kernel), hw, conv) is fits


def test_the_adapter_goes_through_all_passes(monkeypatch):
    monkeypatch.setattr(halo_blocks, "has_cuda_kernels", lambda: True)
    assert HaloBlocks.for_mask(torch.ones(8, 8, 3, 3, dtype=torch.bool), 2) is None
    torch.manual_seed(0)
    mask = (torch.rand(2, 2, 3, 3) < 0.4).repeat_interleave(32, 0).repeat_interleave(32, 1)
    kernel = HaloBlocks.for_mask(mask, 1)
    share = float(mask.float().mean())
    assert kernel.relative_time == pytest.approx((2 * share * 2.0 + 1) / 3)
    x, grad = (torch.randn(2, 64, 6, 6).bfloat16() for _ in range(2))
    weight, bias = torch.randn(mask.shape).bfloat16(), torch.randn(64).bfloat16()
    for got, want in (
        (
            kernel.forward(x, weight, mask, bias, CONV),
            reference.masked_conv2d(x, weight, mask, bias, None, *CONV),
        ),
        (
            kernel.grad_input(grad, weight, mask, [6, 6], CONV),
            reference.masked_conv2d_grad_input(grad, weight, mask, None, [6, 6], *CONV),
        ),
        (
            kernel.grad_weight(grad, x, mask, CONV),
            reference.masked_conv2d_grad_weight(grad, x, mask, None, *CONV),
        ),
    ):
        torch.testing.assert_close(got, want)
