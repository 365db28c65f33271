"""weight_overlap, the op: counts against the oracle. R_p itself: tests/pruning/."""

import pytest
import torch
from hypothesis import given, settings
from strategies import tensor_lists

from sparselth.ops import reference, weight_overlap

ops = torch.ops.sparselth


@given(tensor_lists())
@settings(max_examples=100)
def test_is_the_oracle(case):
    a, k, pooled = case
    if pooled:
        k = [t.numel() // 3 for t in a]
    b = [torch.randn_like(t) for t in a]
    assert torch.equal(ops.weight_overlap(a, b, k), reference.weight_overlap(a, b, k))
    finite = torch.tensor([bool(t.isfinite().all()) for t in a])
    want = torch.where(finite, torch.tensor(k), -1)
    assert torch.equal(ops.weight_overlap(a, a, k), want)


def test_nan_and_infinity_are_refused_by_name():
    ones, bad = torch.ones(4), torch.tensor([1.0, float("nan"), 1.0, 1.0])
    with pytest.raises(ValueError, match=r"b\[1\] holds NaN or Inf"):
        weight_overlap([ones, ones], [ones, bad], [1, 1])
    with pytest.raises(ValueError, match="fc holds NaN or Inf"):
        weight_overlap([bad], [ones], [1], names=(["fc"], ["other"]))


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(ValueError, match=r"a\[0\] has shape \(4,\), b\[0\] \(2,\)"):
        weight_overlap([torch.ones(4)], [torch.ones(2)], [1])
