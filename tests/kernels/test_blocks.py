"""The blocks of masks, and the walks over them, against counting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

blocks = pytest.importorskip("sparselth.kernels.blocks")


def kept_blocks(mask, groups, size):
    """Return the blocks that keep anything as a set: group, first out, first in, tap."""
    outs, width, found = mask.shape[0] // groups, mask.shape[3], set()
    for out, inside, row, column in mask.nonzero().tolist():
        group, within = divmod(out, outs)
        first_out = group * outs + within // size * size
        found.add((group, first_out, inside // size * size, row * width + column))
    return found


@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([(1, 1), (2, 3), (3, 3)]),
    st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    st.sampled_from([16, 32, 64]),
)
@settings(max_examples=60)
def test_every_block_that_keeps_anything_is_listed_once(groups, outs, ins, kernel, density, size):
    torch.manual_seed(0)
    mask = torch.rand(groups * outs, ins, *kernel) < density
    index = blocks.find_blocks(mask, groups, size)
    listed = [tuple(row) for row in index.blocks.tolist()]
    assert len(set(listed)) == len(listed)
    assert set(listed) == kept_blocks(mask, groups, size)
    assert index.density == pytest.approx(
        len(listed) / (groups * -(-outs // size) * -(-ins // size) * kernel[0] * kernel[1])
    )


def test_channels_that_keep_anything_come_first():
    mask = torch.zeros(6, 5, 3, 3, dtype=torch.bool)
    mask[1::2, 1, 0, 2] = mask[3, 4, 1, 1] = True
    outs, ins = blocks.order_channels(mask)
    assert outs.tolist() == [1, 3, 5, 0, 2, 4]
    assert ins.tolist() == [1, 4, 0, 2, 3]
    assert outs.dtype == ins.dtype == torch.int32
    some_outs, some_ins = blocks.order_channels(mask | mask.any(0))
    assert some_outs is None
    assert some_ins.tolist() == [1, 4, 0, 2, 3]
    # Nothing is to be moved where what keeps anything comes first, or nothing keeps anything.
    for still in (mask.index_select(0, outs).index_select(1, ins), mask & False, mask | True):
        assert blocks.order_channels(still) == blocks.NO_ORDERS


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([16, 32]), st.integers(0, 99))
@settings(max_examples=40)
def test_blocks_of_ordered_channels_are_those_of_what_remains(outs, ins, size, seed):
    generator = torch.Generator().manual_seed(seed)
    kept = [torch.rand(n, generator=generator) < 0.3 for n in (outs, ins)]
    mask = (kept[0][:, None] & kept[1])[:, :, None, None].expand(-1, -1, 1, 2)
    index = blocks.find_blocks(mask, 1, size, blocks.order_channels(mask))
    full = [-(-int(channels.sum()) // size) for channels in kept]
    assert len(index.blocks) == 2 * full[0] * full[1]
    assert index.shape == tuple(mask.shape)
    assert index.density <= blocks.find_blocks(mask, 1, size).density
    walk = blocks.forward_walk(index, (4, 4), (1, 1), (0, 0), (1, 1))[0]
    assert len(walk.rows) == -(-outs // size)  # dead ones too: they get the bias


@pytest.mark.parametrize(
    ("pattern", "size"),
    [("64x64", 64), ("32x32", 32), ("16x16", 16), ("element", 64)],
)
def test_the_size_fits_the_mask(pattern, size):
    import sparselth as sl

    torch.manual_seed(0)
    scores = torch.randn(256, 256, 3, 3)
    groups = scores.numel() // (1 if pattern == "element" else int(pattern.split("x")[0]) ** 2)
    mask = sl.ops.topk_mask(scores, groups // 10, pattern=pattern)
    index = blocks.cheapest_blocks(mask, 1, {64: 1.0, 32: 1.8, 16: 3.7})
    assert index.size == size
    assert index.density == pytest.approx(1.0 if pattern == "element" else 0.1, abs=0.01)


def test_rows_are_walked_longest_first_and_share_all_blocks():
    torch.manual_seed(0)
    mask = torch.rand(80, 48, 3, 3) < 0.002
    mask[:16] = False
    index = blocks.find_blocks(mask, 1, 16)
    walk = blocks.forward_walk(index, (8, 8), (1, 1), (1, 1), (1, 1))[0]
    lengths = (walk.rows[:, 1] - walk.rows[:, 0]).tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == 5  # one of them empty: its outputs are zeros all the same
    assert lengths[-1] == 0
    assert sorted(walk.entries[:, 3].tolist()) == list(range(len(index.blocks)))
    again = blocks.forward_walk(index, (8, 8), (1, 1), (1, 1), (1, 1))
    assert again[0] is walk


def test_phases_share_the_taps_of_an_input_gradient():
    index = blocks.find_blocks(torch.ones(16, 16, 3, 3, dtype=torch.bool), 1, 16)
    walks = blocks.grad_input_walks(index, (9, 8), (2, 2), (1, 1), (1, 1))
    assert [len(walk.entries) for walk in walks] == [1, 2, 2, 4]
    assert [walk.size for walk in walks] == [(5, 4), (5, 4), (4, 4), (4, 4)]
    assert sorted(torch.cat([w.entries for w in walks])[:, 3].tolist()) == list(range(9))
