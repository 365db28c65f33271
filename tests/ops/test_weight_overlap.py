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
    assert torch.equal(ops.weight_overlap(a, a, k), torch.tensor(k))


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(ValueError, match=r"a\[0\] has shape \(4,\), b\[0\] \(2,\)"):
        weight_overlap([torch.ones(4)], [torch.ones(2)], [1])
