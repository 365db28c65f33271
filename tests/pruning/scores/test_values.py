"""Scores of weights as they were before training."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import ScoreContext
from sparselth.pruning.scores import SCORES


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))


def test_magnitude_at_initialization():
    model, trained = net(), net()
    before = model.state_dict()
    found = sl.find_masks(trained, score="magnitude-init", sparsity=0.5, exclude=(), initial=before)
    at_init = sl.find_masks(model, sparsity=0.5, exclude=())
    assert all(torch.equal(found[name], at_init[name]) for name in found)


def test_movement_is_the_sum_over_the_steps_of_training():
    """Sum of -w dL/dw over small steps of gradient descent, times its rate."""
    torch.manual_seed(0)
    model = net().double()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, y = torch.randn(16, 6).double(), torch.randn(16, 3).double()
    rate, weights = 1e-3, {n: p for n, p in model.named_parameters() if p.dim() > 1}
    sums = {name: torch.zeros_like(p) for name, p in weights.items()}
    for _ in range(500):
        grads = torch.autograd.grad((model(x) - y).square().mean(), list(weights.values()))
        with torch.no_grad():
            for (name, weight), grad in zip(weights.items(), grads, strict=True):
                sums[name] -= rate * weight * grad
                weight -= rate * grad
    context = ScoreContext(model, initial=start)
    found = SCORES["movement"]({n: w.detach() for n, w in weights.items()}, context)
    for name, total in sums.items():
        torch.testing.assert_close(found[name] / 2, total.detach(), rtol=1e-2, atol=1e-4)


def test_what_moves_towards_zero_goes_first():
    model = net()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    away = torch.rand(8, 6) < 0.5
    with torch.no_grad():
        model[0].weight *= torch.where(away, 1.1, 0.9)
    share = 1 - float(away.float().mean())
    masks = sl.find_masks(model, score="movement", sparsity={"0.weight": share}, initial=start)
    assert torch.equal(masks["0.weight"], away)


@pytest.mark.parametrize("name", ["magnitude-init", "movement"])
@pytest.mark.parametrize(
    ("initial", "says"),
    [
        (None, "needs initial; pass initial=, the state dict before training"),
        ({}, "initial lacks 0.weight"),
        ({"0.weight": torch.zeros(3)}, r"initial holds \(3,\) for '0.weight'"),
        ({"0.weight": "zeros"}, "initial holds str for '0.weight'"),
        ([1, 2], "initial must be a mapping of parameter names"),
    ],
)
def test_bad_input(name, initial, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            sl.find_masks(net(), score=name, initial=initial)
    with pytest.raises(sl.SparselthError, match=says):
        sl.pruning.check_search(net(), score=name, initial=initial)
