"""What is timed computes the same: gradients of ours and of every baseline agree."""

import pytest
import torch

from sparselth.bench.conv import auto_steps, candidates
from sparselth.bench.layers import Layer, conv_problem

LAYERS = [
    Layer(4, 8, 6),
    Layer(3, 8, 7, stride=2),
    Layer(2, 8, 5, kernel=1),
    Layer(2, 8, 5, groups=8),
]


@pytest.mark.parametrize("steps", [candidates, auto_steps])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_all_candidates_have_the_gradients_of_the_definition(layer, steps):
    problem = conv_problem(layer, 0.7)
    x = problem.x.double().requires_grad_()
    weight = problem.weight.double().requires_grad_()
    y = torch.nn.functional.conv2d(
        x, weight * problem.mask, None, problem.stride, problem.padding, groups=problem.groups
    )
    wanted = torch.autograd.grad(y, (x, weight), problem.grad.double())
    found = steps(problem)
    assert len(found) >= 4
    for name, step in found.items():
        tolerance = 0.05 if "bf16" in name else 1e-5
        for got, right in zip(step(), wanted, strict=True):
            if right is wanted[1]:
                got = got * problem.mask  # dense ones have it for all weights
            error = (got.double() - right).abs().max() / right.abs().max()
            assert error < tolerance, name
