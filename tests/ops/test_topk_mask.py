"""topk_mask: exact, so compared bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from support.strategies import tensor_lists

from sparselth.ops import reference, topk_mask

ops = torch.ops.sparselth


@given(tensor_lists())
@settings(max_examples=300)
def test_is_the_oracle_bit_for_bit(case):
    tensors, k, global_ = case
    got, nonfinite = ops.topk_mask(tensors, k, global_, [])
    want, counted = reference.topk_mask(tensors, k, global_, [])
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(nonfinite, counted)
    assert sum(int(m.sum()) for m in got) == sum(k)


@pytest.mark.parametrize("k", [1, 700, 35_000, 69_000, 70_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sample_that_misleads_changes_nothing(k, dtype):
    # All that a regular sample sees is far from the k-th value: whatever its step and run.
    for step in (4, 8, 16, 28, 32, 48, 64):
        scores = torch.randn(70_001, dtype=torch.float64) + 10
        scores[torch.arange(70_001) % step < 4] *= 1e-3
        for values in (scores, 1 / scores):
            values = values.to(dtype)
            got, _ = ops.topk_mask([values], [k], False, [])
            want, _ = reference.topk_mask([values], [k], False, [])
            assert torch.equal(got[0], want[0])


def test_nan_ranks_above_infinity_and_infinity_above_all_else():
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([1.0, -inf, 3e38, nan, inf, -nan, 0.0])
    ranking = [3, 5, 1, 4, 2, 0, 6]
    for k in range(8):
        mask = topk_mask(scores, k, nonfinite="order")
        assert mask.nonzero().flatten().tolist() == sorted(ranking[:k])


def test_an_error_uses_the_names_given():
    with pytest.raises(ValueError, match="conv2 holds NaN or Inf"):
        topk_mask([torch.ones(2), torch.ones(2) / 0], 1, names=["conv1", "conv2"])


def test_ties_go_to_the_lowest_index():
    mask = topk_mask(torch.tensor([1.0, -2.0, 2.0, 1.0, 2.0]), 2)
    assert mask.tolist() == [False, True, True, False, False]


def test_single_tensors_and_lists():
    score = torch.randn(4, 5)
    mask = topk_mask(score, 6)
    assert mask.shape == score.shape
    assert int(mask.sum()) == 6
    assert topk_mask([], []) == []
    assert [int(m.sum()) for m in topk_mask([score, score], [1, 2])] == [1, 2]
    pooled = topk_mask([score, 10 * score], 5, allocation="global")
    assert int(pooled[0].sum()) < int(pooled[1].sum())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: topk_mask(t, 5), r"k\[0\] = 5 is outside \[0, 4\]"),
        (lambda t: topk_mask(t, 1, allocation="layer"), "unknown allocation 'layer'; known: give"),
        (lambda t: topk_mask([t, t], [1]), "k has 1 counts for 2 selections"),
        (lambda t: topk_mask(t / 0, 1), r"scores\[0\] holds NaN or Inf"),
        (lambda t: topk_mask(t / 0, 0), r"scores\[0\] holds NaN or Inf"),
        (lambda t: topk_mask(t, 1, nonfinite="no"), "unknown nonfinite 'no'; known: error, order"),
        (lambda t: topk_mask(t, 1, names=["a", "b"]), "names has 2 entries for 1 tensors"),
        (lambda t: topk_mask([t, t.double()], [1, 1]), "one dtype and device, got"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(4.0))
