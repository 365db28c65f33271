"""topk_mask: exact, so compared bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from strategies import tensor_lists

from sparselth.ops import reference, topk_mask

ops = torch.ops.sparselth


@given(tensor_lists())
@settings(max_examples=300)
def test_is_the_oracle_bit_for_bit(case):
    tensors, k, pooled = case
    got = ops.topk_mask(tensors, k, pooled)
    want = reference.topk_mask(tensors, k, pooled)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
    assert sum(int(m.sum()) for m in got) == sum(k)


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
        (lambda t: topk_mask(t, 1, allocation="layer"), "unknown allocation 'layer'; known: glob"),
        (lambda t: topk_mask([t, t], [1]), "k has 1 counts for 2 selections"),
        (lambda t: topk_mask(t / 0, 1), r"scores\[0\] holds NaN or Inf"),
        (lambda t: topk_mask([t, t.double()], [1, 1]), "one dtype and device, got"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(4.0))
