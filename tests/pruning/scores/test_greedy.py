"""Greedy forward selection against trying everything."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import sparselth as sl
from sparselth.pruning import ScoreContext
from sparselth.pruning.scores.greedy import greedy_forward


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3), nn.Flatten())
    ).eval()


def data():
    draw = torch.Generator().manual_seed(1)
    x = [torch.randn(n, 2, 5, 5, generator=draw) for n in (8, 6)]
    return [(one, net()(one).detach()) for one in x]


def loss_with(model, inside):
    """The mean loss when the map is 6/n times that of the n filters that are in."""
    total, count = 0.0, 0
    for x, y in data():
        found = model[:3](x)
        gates = torch.zeros(6)
        gates[list(inside)] = 6 / len(inside)
        total += float(mse_loss(model[3:](found * gates.view(1, 6, 1, 1)), y)) * len(x)
        count += len(x)
    return total / count


def scores(model, kept):
    context = ScoreContext(model, data(), mse_loss, kept={"0.weight": kept})
    return greedy_forward({"0.weight": model[0].weight.detach()}, context)["0.weight"]


def test_each_pick_is_the_best_of_all():
    model = net()
    found = scores(model, 4)
    inside = []
    for place in range(4):
        best = min(
            (i for i in range(6) if i not in inside), key=lambda i: loss_with(model, [*inside, i])
        )
        assert float(found[best]) == 4 - place
        inside.append(best)
    assert sorted(found.tolist()) == [0, 0, 1, 2, 3, 4]


def test_the_first_pick_is_that_of_brute_force():
    model = net()
    found = scores(model, 1)
    assert int(found.argmax()) == min(range(6), key=lambda i: loss_with(model, [i]))
    pairs = min(loss_with(model, pair) for pair in itertools.combinations(range(6), 2))
    two = scores(model, 2).nonzero().flatten().tolist()
    assert loss_with(model, two) <= 3 * pairs


def test_masks_keep_what_came_in():
    model = net()
    masks = sl.find_masks(
        model,
        score="greedy-forward",
        sparsity=0.5,
        data=data(),
        loss=mse_loss,
        exclude=["3.weight"],
    )
    inside = scores(model, 3).nonzero().flatten().tolist()
    assert masks["0.weight"].flatten(1).all(1).nonzero().flatten().tolist() == inside


def test_counts_must_be_known():
    for name in ("greedy-forward", "lfpc"):
        with pytest.raises(sl.SparselthError, match="asks how many filters of each layer stay"):
            sl.find_masks(net(), score=name, allocation="global", data=data(), loss=mse_loss)


@pytest.mark.parametrize("name", ["greedy-forward", "lfpc"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"loss": mse_loss}, "needs data"),
        ({"data": [(torch.randn(2, 2, 5, 5), torch.zeros(2, 3))]}, "needs loss"),
        ({"data": [], "loss": mse_loss}, "data holds no batch"),
        ({"data": data(), "loss": lambda out, y: out.sum() / 0}, "must be a finite scalar"),
    ],
)
def test_bad_input(name, given, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            sl.find_masks(net(), score=name, sparsity=0.5, exclude=["3.weight"], **given)
