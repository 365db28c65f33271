"""What is timed computes the same: gradients of ours and of dense agree, in types of autocast."""

import torch

from sparselth.bench.linear import RATIOS, candidates


def test_all_candidates_have_the_gradients_of_dense():
    found = {name: call() for name, call in candidates(64, 0.9).items()}
    assert {name for ratio in RATIOS for name in (*ratio.ours, *ratio.theirs)} == set(found)
    kept = found["sparse"][1] != 0
    assert kept.sum() == round(0.1 * 64 * 64)
    for name, (grad_input, grad_weight) in found.items():
        narrow = "bf16" in name
        assert grad_input.dtype == (torch.bfloat16 if narrow else torch.float32)
        assert grad_weight.dtype == torch.float32
        tolerance = 0.05 if narrow else 1e-5
        for got, want in zip((grad_input, grad_weight * kept), found["dense"], strict=True):
            want = want * kept if want is found["dense"][1] else want
            error = (got.double() - want.double()).abs().max() / want.double().abs().max()
            assert error < tolerance, name
