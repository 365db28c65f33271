"""Masks of whole filters and channels as blocks. The passes: tests/kernels, in the interpreter."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselth.ops.gpu import blocks, compaction
from sparselth.ops.gpu.rates import slower_than_cudnn

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def crossed(outs, ins, total=128):
    """Return a mask of the filters `outs` and the channels `ins`, slices."""
    mask = torch.zeros(total, total, 3, 3, dtype=torch.bool)
    mask[outs, ins] = True
    return mask


SPREAD = crossed(slice(3, None, 8), slice(1, None, 8))


@given(st.integers(1, 150), st.integers(1, 150), st.floats(0, 1), st.floats(0, 1), st.booleans())
@settings(max_examples=60)
def test_every_kept_weight_lies_in_one_block(outs, ins, share_of_outs, share_of_ins, scattered):
    torch.manual_seed(0)
    mask = torch.rand(outs, ins, 1, 3) < (0.3 if scattered else 1.0)
    mask &= (torch.rand(outs) < share_of_outs).view(-1, 1, 1, 1)
    mask &= (torch.rand(ins) < share_of_ins).view(1, -1, 1, 1)
    kernel, plain = compaction.Compacted.for_mask(mask, 1), blocks.Blocks.for_mask(mask, 1)
    if kernel is None:
        return
    assert kernel.relative_time < plain.relative_time
    index, size = kernel.index, kernel.index.size
    places = [
        torch.arange(n) if order is None else order.long()
        for n, order in zip(mask.shape, index.orders, strict=False)
    ]
    for place, n in zip(places, mask.shape, strict=False):
        assert sorted(place.tolist()) == list(range(n))  # so that every result is written once
    times = torch.zeros(mask.shape, dtype=torch.int)
    for _, out, inside, tap in index.blocks.tolist():
        rows, columns = places[0][out : out + size], places[1][inside : inside + size]
        times[rows[:, None], columns, 0, tap] += 1
    assert (times[mask] == 1).all()


def test_dead_filters_and_channels_fill_no_block():
    kernel = compaction.Compacted.for_mask(SPREAD, 1)
    assert kernel.index.size == 16
    assert kernel.index.density == (1 / 8) ** 2
    assert kernel.relative_time == pytest.approx(slower_than_cudnn("compaction16") / 64)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones_like(SPREAD),
        torch.zeros_like(SPREAD),
        crossed(slice(16), slice(16)),  # first already
        crossed(slice(64, None), slice(64, None)),  # a block already
        crossed(slice(1, None), slice(1, None)),  # as many blocks as before
    ],
)
def test_nothing_is_ordered_in_vain(mask):
    assert compaction.Compacted.for_mask(mask, 1) is None


def test_it_serves_without_groups_and_where_triton_runs(monkeypatch):
    assert compaction.Compacted.for_mask(SPREAD, 1) is not None
    assert compaction.Compacted.for_mask(SPREAD, 2) is None
    monkeypatch.setattr(blocks, "why_missing", lambda: "triton is not installed")
    assert blocks.can_run(torch.device("cpu"))  # in the interpreter
    assert not blocks.can_run(torch.device("cuda"))
    monkeypatch.setattr(compaction, "can_run", lambda device: False)
    assert compaction.Compacted.for_mask(SPREAD, 1) is None
