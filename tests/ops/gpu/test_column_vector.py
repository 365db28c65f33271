"""Masks covered by vectors: the plan holds every kept weight, where a warp looks for it."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from support.strategies import conv_cases

from sparselth.ops import reference
from sparselth.ops.gpu import column_vector
from sparselth.ops.gpu.column_vector import LENGTHS, all_passes_fit, densities, find_column_vectors


def listed(plan, mask, length, by_input):
    """Walk a plan as the kernel does; yield (first row, column, taps, filler, run) of each vector,
    filler: whether it fills a k-step up.
    """
    outs, ins, height, width = mask.shape
    rows, columns = (ins, outs) if by_input else (outs, ins)
    slots, chunks = -(-rows // 64) * (64 // length), -(-columns // 32)
    groups = plan[:slots].tolist()
    starts = plan[slots : slots + slots * chunks + 1].tolist()
    codes = plan[slots + slots * chunks + 1 :].tolist()
    assert starts[0] == 0
    assert starts[-1] * 16 == len(codes)
    for run, (first, end) in enumerate(itertools.pairwise(starts)):
        for at in range(16 * first, 16 * end):
            column = run % chunks * 32 + (codes[at] & 31)
            taps = (codes[at] >> 5 & 255, codes[at] >> 13 & 255)
            if by_input:
                taps = (height - 1 - taps[0], width - 1 - taps[1])
            yield groups[run // chunks] * length, column, *taps, bool(codes[at] >> 21), run


@pytest.mark.parametrize("length", LENGTHS)
@given(case=conv_cases())
@settings(max_examples=40)
def test_every_kept_weight_is_covered_once(length, case):
    _, _, mask, _ = case.tensors()
    for by_input, plan in enumerate(find_column_vectors(mask, length)):
        rows = mask.transpose(0, 1) if by_input else mask
        covered = torch.zeros_like(rows)
        known = {}
        vectors = listed(plan, mask, length, bool(by_input))
        for row, column, tap_row, tap_column, filler, run in vectors:
            vector = (slice(row, row + length), column, tap_row, tap_column)
            if filler:  # reads what the group keeps anyway, times zero
                assert (column, tap_row, tap_column) in known[run]
                continue
            known.setdefault(run, set()).add((column, tap_row, tap_column))
            assert rows[vector].any()
            assert not covered[vector].any()
            covered[vector] = True
        assert not (rows & ~covered).any()


def test_groups_with_the_most_vectors_come_first():
    mask = torch.zeros(40, 3, 1, 1, dtype=torch.bool)
    mask[20, :2] = mask[35, 0] = True
    assert find_column_vectors(mask, 16).by_output[:4].tolist() == [1, 2, 0, -1]
    assert densities(mask, 16) == (pytest.approx(3 / 9), pytest.approx(2 / 40))
    assert find_column_vectors(mask, 8).by_output[:8].tolist() == [2, 4, 0, 1, 3, -1, -1, -1]
    assert densities(mask, 8) == (pytest.approx(3 / 15), pytest.approx(2 / 40))


def test_neighbors_in_a_k_step_are_of_different_banks():
    plan = find_column_vectors(torch.ones(16, 32, 3, 3, dtype=torch.bool), 16).by_output
    codes = plan[9:].view(-1, 8)
    rows = (codes & 31) * 61 + (codes >> 5 & 255) * 10 + (codes >> 13 & 255)  # of a 6 x 10 plane
    distinct = [len(set(eight)) for eight in (rows % 8).tolist()]
    assert sum(distinct) > 7.5 * len(distinct)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "there"),
    [(3, 1, 1, True), (7, 1, 1, True), (3, 2, 1, True), (7, 2, 1, False), (3, 1, 8, False)],
)
def test_what_fits_into_shared_memory(kernel, stride, dilation, there):
    conv = ([stride] * 2, [kernel // 2 * dilation] * 2, [dilation] * 2, 1)
    assert all_passes_fit((64, 64, kernel, kernel), (56, 56), conv) == there


@pytest.mark.parametrize("length", LENGTHS)
def test_gradients_are_dense_where_vectors_would_be_slower(length, monkeypatch):
    monkeypatch.setattr(column_vector, "has_cuda_kernels", lambda: True)
    kind = {16: column_vector.ColumnVector16, 8: column_vector.ColumnVector8}[length]
    torch.manual_seed(0)
    mask = (torch.rand(64 // length, 64, 3, 3) < 0.02).repeat_interleave(length, 0)
    outward = kind.for_mask(mask, 1)
    both = kind.for_mask(mask & (torch.rand(1, 4, 1, 1) < 0.2).repeat_interleave(16, 1), 1)
    assert not outward.goes_back_by_vectors
    assert both.goes_back_by_vectors
    assert both.relative_time < outward.relative_time < 1
    x, weight = torch.randn(2, 64, 5, 5).bfloat16(), torch.randn(64, 64, 3, 3).bfloat16()
    conv = ([1, 1], [1, 1], [1, 1], 1)
    grad = torch.randn(2, 64, 5, 5).bfloat16()
    for got, want in (
        (
            outward.grad_input(grad, weight, mask, [5, 5], conv),
            reference.masked_conv2d_grad_input(grad, weight, mask, None, [5, 5], *conv),
        ),
        (
            outward.grad_weight(grad, x, mask, conv),
            reference.masked_conv2d_grad_weight(grad, x, mask, None, *conv),
        ),
    ):
        assert torch.equal(got, want)
