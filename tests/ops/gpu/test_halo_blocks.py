"""Masks as blocks of 32 x 32: the plan lists each that keeps anything once, where a warp looks."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import conv_cases

from sparselth.ops import reference
from sparselth.ops.gpu import halo_blocks
from sparselth.ops.gpu.halo_blocks import (
    HaloBlocks,
    all_passes_fit,
    find_halo_blocks,
    grad_weight_fits,
)

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
    for by_input, plan in enumerate(find_halo_blocks(mask)[:2]):
        rows_first = mask.transpose(0, 1) if by_input else mask
        covered = torch.zeros_like(rows_first)
        walk = listed(plan, *rows_first.shape[:2], mask.shape[2:], bool(by_input))
        for row, column, tap_row, tap_column in walk:
            block = (slice(row, row + 32), slice(column, column + 32), tap_row, tap_column)
            assert rows_first[block].any()
            assert not covered[block].any()
            covered[block] = True
        assert not (rows_first & ~covered).any()


def dealt(plan, shape):
    """Walk a plan of panels as the kernel does; yield an item's blocks by warp, as found there."""
    column_panels = -(-shape[1] // 128)
    for panel, *codes in plan.view(-1, 41).tolist():
        first_row, first_column = panel // column_panels * 128, panel % column_panels * 128
        warps = []
        for warp in range(8):
            own = codes[5 * warp : 5 * warp + 5]
            there = [code for code in own if code >= 0]
            assert own == there + [-1] * (5 - len(there))  # what the kernel counts on
            warps.append(
                [
                    (
                        first_row + (code & 3) * 32,
                        first_column + (code >> 2 & 3) * 32,
                        code >> 4 & 255,
                        code >> 12,
                    )
                    for code in there
                ]
            )
        yield warps


@st.composite
def masks_of_blocks(draw):
    shape = (draw(st.integers(1, 300)), draw(st.integers(1, 300)))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    blocks = (-(-shape[0] // 32), -(-shape[1] // 32), *kernel)
    kept = torch.rand(blocks, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    whole = kept.repeat_interleave(32, 0).repeat_interleave(32, 1)
    return whole[: shape[0], : shape[1]], int(kept.sum())


@given(drawn=masks_of_blocks())
@settings(max_examples=60)
def test_every_block_is_dealt_to_one_warp_of_its_panel(drawn):
    mask, count = drawn
    plan = find_halo_blocks(mask).by_panel
    found, of_panels = [], {}
    for warps in dealt(plan, mask.shape):
        held = [len(own) for own in warps]
        assert max(held) - min(held) <= 1
        item = list(chain(*warps))
        panels = {(row // 128, column // 128) for row, column, *_ in item}
        assert len(panels) == 1
        of_panels.setdefault(panels.pop(), []).append(len(item))
        assert item == sorted(item)  # blocks of the same outputs side by side
        found += item
    assert len(found) == len(set(found)) == count
    assert all(mask[block[0], block[1], block[2], block[3]] for block in found)
    for sizes in of_panels.values():  # no more items than hold them, of even size
        assert len(sizes) == -(-sum(sizes) // 40)
        assert max(sizes) - min(sizes) <= 1


def test_a_plan_of_panels_lists_blocks_that_keep_anything():
    mask = torch.zeros(130, 200, 3, 2, dtype=torch.bool)
    mask[129, 170, 2, 1] = mask[40, 199, 0, 1] = True
    walks = [list(chain(*warps)) for warps in dealt(find_halo_blocks(mask).by_panel, mask.shape)]
    assert walks == [[(32, 192, 0, 1)], [(128, 160, 2, 1)]]
    assert find_halo_blocks(torch.zeros_like(mask)).by_panel.shape == (0,)


@pytest.mark.parametrize(
    ("kernel", "hw", "conv", "fits", "grad_weight"),
    [
        ((3, 3), (56, 56), CONV, True, True),
        ((3, 3), (7, 7), CONV, True, True),
        ((3, 3), (2, 2), CONV, True, True),
        ((1, 1), (1, 5000), ([1, 1], [0, 0], [1, 1], 1), True, True),
        ((3, 3), (56, 56), ([2, 2], [1, 1], [1, 1], 1), True, True),
        ((5, 5), (56, 56), ([2, 2], [2, 2], [1, 1], 1), True, False),
        ((5, 5), (64, 64), ([1, 1], [24, 24], [12, 12], 1), False, False),
        ((3, 3), (64, 64), ([4, 4], [1, 1], [1, 1], 1), False, False),
        ((1, 300), (1, 400), CONV, False, False),
    ],
)
def test_what_fits_into_shared_memory(kernel, hw, conv, fits, grad_weight):
    assert all_passes_fit((64, 64, *kernel), hw, conv) is fits
    assert grad_weight_fits((64, 64, *kernel), hw, conv) is grad_weight


@pytest.fixture
def kernel_and_mask(monkeypatch):
    monkeypatch.setattr(halo_blocks, "has_cuda_kernels", lambda: True)
    torch.manual_seed(0)
    mask = (torch.rand(2, 2, 3, 3) < 0.4).repeat_interleave(32, 0).repeat_interleave(32, 1)
    return HaloBlocks.for_mask(mask, 1), mask


def test_the_adapter_goes_through_all_passes(kernel_and_mask):
    kernel, mask = kernel_and_mask
    assert HaloBlocks.for_mask(torch.ones(8, 8, 3, 3, dtype=torch.bool), 2) is None
    assert kernel.relative_time == pytest.approx(float(mask.float().mean()) * 2.0)
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


def test_a_weight_gradient_is_served_by_cudnn_where_it_does_not_fit(kernel_and_mask, monkeypatch):
    kernel, mask = kernel_and_mask
    served = []

    class Ops:
        @staticmethod
        def halo_block_conv2d_grad_weight(grad, x, mask, plan, *conv):
            assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (grad, x))
            assert torch.equal(plan, find_halo_blocks(mask).by_panel)
            served.append(conv)
            return reference.masked_conv2d_grad_weight(grad, x, mask, None, *conv)

    monkeypatch.setattr(halo_blocks, "OPS", Ops)
    x = torch.randn(1, 64, 30, 30, dtype=torch.float64)
    for stride, ours in (([1, 1], True), ([3, 2], False)):
        conv = (stride, *CONV[1:])
        grad = torch.randn(1, 64, 30 // stride[0], 30 // stride[1], dtype=x.dtype)
        got = kernel.grad_weight(grad, x, mask, conv)
        want = reference.masked_conv2d_grad_weight(grad, x, mask, None, *conv)
        torch.testing.assert_close(got, want)
        assert served == ([conv] if ours else [])
        served.clear()
