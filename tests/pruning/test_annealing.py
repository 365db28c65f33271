"""Annealing: within the budget, better than the same everywhere on a toy, and repeatable."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import sparselth as sl
from sparselth.pruning import annealed_sparsities
from sparselth.pruning.flops import multiplications


def net():
    """The first layer is needed whole; of the second nine tenths are next to nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 20))
    with torch.no_grad():
        model[0].weight.uniform_(0.5, 1.0)
        model[2].weight.mul_(torch.where(torch.rand(20, 20) < 0.1, 1.0, 1e-3))
    return model


def batches(model):
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(1))
    return [(x[:40], model(x[:40]).detach()), (x[40:], model(x[40:]).detach())]


def missed(model, sparsity):
    masks = sl.find_masks(model, sparsity=sparsity, exclude=())
    pruned = sl.sparsify(net(), masks)
    return sum(float(mse_loss(pruned(x), y)) * len(x) for x, y in batches(model)) / 64


def test_it_finds_which_layer_can_be_pruned():
    model = net()
    options = {"data": batches(model), "loss": mse_loss, "exclude": (), "steps": 60}
    shares = annealed_sparsities(model, 0.5, **options)
    assert shares["0.weight"] < 0.3 < 0.7 < shares["2.weight"]
    assert missed(model, shares) < 0.5 * missed(model, 0.5)
    masks = sl.find_masks(model, sparsity=shares, exclude=())
    assert sl.sparsity(masks) == pytest.approx(0.5, abs=0.002)
    assert shares == annealed_sparsities(model, 0.5, **options)
    assert shares != annealed_sparsities(model, 0.5, **options, seed=1)


def test_it_is_never_worse_than_the_same_everywhere():
    model = net()
    seen = []

    def energy(masks):
        seen.append(masks)
        return float(len(seen))  # every try is worse than the first

    shares = annealed_sparsities(model, 0.6, energy=energy, exclude=(), steps=5)
    assert shares == {"0.weight": pytest.approx(0.6), "2.weight": pytest.approx(0.6)}
    assert len(seen) == 6


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.95])
def test_every_try_is_within_the_budget(sparsity):
    seen = []
    model = nn.Sequential(nn.Linear(30, 10), nn.Linear(10, 40), nn.Linear(40, 5))

    def energy(masks):
        seen.append(sl.sparsity(masks))
        return -seen[-1]

    annealed_sparsities(model, sparsity, energy=energy, exclude=(), steps=20, perturbation=2.0)
    assert len(seen) == 21
    assert all(share == pytest.approx(sparsity, abs=0.005) for share in seen)


def test_the_budget_may_be_multiplications():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(8, 8, 3, padding=1)),
        nn.Flatten(),
    )
    x = torch.randn(8, 4, 8, 8)
    data = [(x, model(x).detach())]
    shares = annealed_sparsities(
        model, 0.5, data=data, loss=mse_loss, exclude=(), steps=20, budget="flops"
    )
    counts = multiplications(model, x[:1])
    saved = sum(counts[n] * share for n, share in shares.items()) / sum(counts.values())
    assert saved == pytest.approx(0.5, abs=1e-6)


def test_the_model_is_left_as_it_was():
    model = net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    annealed_sparsities(model, 0.5, data=batches(model), loss=mse_loss, exclude=(), steps=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs to know what masks are worth"),
        ({"data": []}, "needs to know what masks are worth"),
        ({"energy": 3}, "energy must be a function of masks"),
        ({"energy": lambda masks: float("nan")}, "the energy of masks must be a finite number"),
        ({"energy": lambda masks: 0.0, "allocation": "erk"}, "allocates by itself"),
        ({"energy": lambda masks: 0.0, "steps": 0}, "steps must be"),
        ({"energy": lambda masks: 0.0, "end": 1.0}, "end must be"),
        ({"energy": lambda masks: 0.0, "budget": "flops"}, "pass data"),
        ({"data": 5, "loss": mse_loss}, r"data must be batches, an iterable of \(x, y\), got int"),
        ({"data": [(1, 2)], "loss": nn.MSELoss}, "got the class MSELoss; pass an instance"),
    ],
)
def test_bad_input(options, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            annealed_sparsities(net(), 0.5, **options)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x["x"] if isinstance(x, dict) else x)


def test_batches_of_mappings_weigh_as_tensors_do():
    model = Named()
    data = batches(model)
    options = {"loss": mse_loss, "exclude": (), "steps": 5}
    found = annealed_sparsities(model, 0.5, data=[({"x": x}, y) for x, y in data], **options)
    assert found == annealed_sparsities(model, 0.5, data=data, **options)
