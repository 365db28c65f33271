"""The blocks of two edges of masks, against counting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

wide_blocks = pytest.importorskip("sparselth.kernels.wide_blocks")


@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.sampled_from([(1, 1), (2, 3), (3, 3)]),
    st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    st.sampled_from(wide_blocks.SHAPES),
)
@settings(max_examples=60)
def test_every_block_that_keeps_anything_is_listed_once_in_each_pass(
    outs, ins, kernel, density, shape
):
    torch.manual_seed(0)
    mask = torch.rand(outs, ins, *kernel) < density
    index = wide_blocks.cheapest_wide_blocks(mask, {shape: 1.0})
    assert (index.depth, index.width) == shape
    turned = mask.transpose(0, 1).flip(2, 3)
    for found, rows_first in ((index.forward, mask), (index.backward, turned)):
        rows, columns = rows_first.shape[:2]
        covered = torch.zeros_like(rows_first)
        assert len(found.rows) == -(-rows // shape[1])
        assert sorted(found.rows[:, 2].tolist()) == list(range(0, rows, shape[1]))
        lengths = (found.rows[:, 1] - found.rows[:, 0]).tolist()
        assert lengths == sorted(lengths, reverse=True)
        assert sum(lengths) == found.count
        for begin, end, first in found.rows.tolist():
            for row, column, *tap in found.blocks[begin:end].tolist():
                assert row == first
                block = (slice(row, row + shape[1]), slice(column, column + shape[0]), *tap)
                assert rows_first[block].any()
                assert not covered[block].any()
                covered[block] = True
        assert not (rows_first & ~covered).any()
        assert found.blocks.shape == (found.count + 1, 4)  # one is read ahead
        assert columns == rows_first.shape[1]


def test_the_shape_fits_the_mask():
    costs = {(32, 32): 2.0, (32, 128): 1.0}
    torch.manual_seed(0)
    scattered = torch.rand(8, 8, 3, 3) < 0.1
    by_input = torch.rand(1, 8, 3, 3) < 0.1  # all outputs keep the same
    for small, shape in ((scattered, (32, 32)), (by_input.expand(8, 8, 3, 3), (32, 128))):
        mask = small.repeat_interleave(32, 0).repeat_interleave(32, 1)
        index = wide_blocks.cheapest_wide_blocks(mask, costs)
        # The input gradient sums over outputs, of which all are kept, so its blocks are not wide.
        assert (index.depth, index.width) == shape


def test_density_is_the_mean_of_both_passes():
    mask = torch.zeros(128, 64, 1, 1, dtype=torch.bool)
    mask[:, :32] = True  # one of two in the forward; the input gradient's rows are 64 wide
    index = wide_blocks.cheapest_wide_blocks(mask, {(32, 128): 1.0})
    assert index.forward.count == 1
    assert index.backward.count == 4
    assert index.density == pytest.approx((0.5 + 1.0) / 2)
