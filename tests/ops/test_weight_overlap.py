"""weight_overlap, the op: counts against the oracle. R_p itself: tests/pruning/."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import tensor_lists

from sparselth.ops import reference, weight_overlap

ops = torch.ops.sparselth


@given(tensor_lists(), st.data())
@settings(max_examples=150)
def test_is_the_oracle(case, data):
    a, _, _ = case
    asked = data.draw(st.integers(1, 11))  # taken five at a time, then one by one
    k = [data.draw(st.integers(0, t.numel())) for t in a for _ in range(asked)]
    b = [torch.randn_like(t) for t in a]
    assert torch.equal(ops.weight_overlap(a, b, [], k), reference.weight_overlap(a, b, [], k))
    finite = torch.tensor([bool(t.isfinite().all()) for t in a]).view(-1, 1)
    want = torch.where(finite, torch.tensor(k).view(len(a), asked), -1)
    assert torch.equal(ops.weight_overlap(a, a, [], k), want)


@given(tensor_lists(), st.data())
@settings(max_examples=100)
def test_under_masks_it_is_the_oracle(case, data):
    a, _, _ = case
    density = data.draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    masks = [torch.rand(t.shape) < density for t in a]
    asked = data.draw(st.integers(1, 7))
    shares = data.draw(st.lists(st.floats(0, 1), min_size=asked, max_size=asked))
    k = [int(share * int(mask.sum())) for mask in masks for share in shares]
    b = [torch.randn_like(t) for t in a]
    got = ops.weight_overlap(a, b, masks, k)
    assert torch.equal(got, reference.weight_overlap(a, b, masks, k))


def test_what_a_mask_leaves_out_is_never_selected():
    a = torch.tensor([float("nan"), 0.0, 5.0, 0.0, -0.0])
    mask = torch.tensor([False, False, False, True, True])
    assert weight_overlap([a], [a], [2], masks=[mask]).tolist() == [2]
    with pytest.raises(ValueError, match="k of tensor 0 is 3, but its mask keeps 2 entries"):
        weight_overlap([a], [a], [3], masks=[mask])


def test_several_counts_are_those_of_each():
    a, b = ([torch.randn(700), torch.randn(20, 30)] for _ in range(2))
    several = [[0, 600], [70, 60], [700, 1]]
    got = weight_overlap(a, b, several)
    assert torch.equal(got, torch.stack([weight_overlap(a, b, k) for k in several]))
    assert got[:, 0].tolist()[::2] == [0, 700]
    assert weight_overlap([], [], []).shape == (0,)


def test_nan_and_infinity_are_refused_by_name():
    ones, bad = torch.ones(4), torch.tensor([1.0, float("nan"), 1.0, 1.0])
    with pytest.raises(ValueError, match=r"b\[1\] holds NaN or Inf"):
        weight_overlap([ones, ones], [ones, bad], [1, 1])
    with pytest.raises(ValueError, match="fc holds NaN or Inf"):
        weight_overlap([bad], [ones], [1], names=(["fc"], ["other"]))


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(ValueError, match=r"b\[0\] has shape \(2,\), a\[0\] \(4,\)"):
        weight_overlap([torch.ones(4)], [torch.ones(2)], [1])
    with pytest.raises(ValueError, match=r"k\[0\] = 5 is outside \[0, 4\]"):
        weight_overlap([torch.ones(4)], [torch.ones(4)], [[1], [5]])
