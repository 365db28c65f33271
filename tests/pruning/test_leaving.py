"""A model that was looked at is as it was: its buffers, and what its modes do."""

from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.pruning.leaving import left_as_it_was


class Average(nn.Module):
    """Puts new tensors in its buffers' place, and fills one that is empty."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("cache", None)

    def forward(self, x):
        self.average = 0.9 * self.average + 0.1 * x.detach().mean().float()
        self.cache = x.detach().clone()
        return x


class Merging(nn.Module):
    """A linear layer that adapters are merged into by `eval`, and taken out of by `train`."""

    def __init__(self):
        super().__init__()
        self.layer, self.merged = nn.Linear(8, 8), False
        self.beside = nn.Parameter(torch.randn(8, 8))

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.layer.weight.data += -self.beside if mode else self.beside
            self.merged = not mode
        return self

    def forward(self, x):
        return self.layer(x) + (0 if self.merged else x @ self.beside.T)


def net():
    return nn.Sequential(
        *(nn.Linear(6, 8), Average(), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()),
        *(nn.Linear(8, 8), Merging(), nn.ReLU(), nn.Linear(8, 3)),
    )


DATA = [(torch.randn(5, 6), torch.randint(3, (5,)))]


@pytest.mark.parametrize(
    "search",
    [
        *({"score": name} for name in ("snip", "grasp", "synflow", "apoz", "lasso", "lfpc")),
        {"budget": "flops"},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_search_changes_nothing(search, training):
    model = net().train(training)
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    buffer = model[1].average
    options = {"sparsity": 0.5, "exclude": ["0.weight", "6.weight", "7.*", "9.weight"]}
    sl.find_masks(model, data=DATA, loss=cross_entropy, **options, **search)
    assert model[1].average is buffer
    assert model[1].cache is None
    assert [module.training for module in model.modules()] == modes
    assert model[7].merged is not training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_after_an_error_too():
    model = net().train()
    with suppress(ValueError), left_as_it_was(model):
        model.eval()(DATA[0][0])
        raise ValueError
    assert model.training
    assert not model[7].merged
    assert float(model[1].average) == 0


def test_a_smaller_model_is_told_of_its_mode():
    pytest.importorskip("torch_pruning")
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), Merging()).train()
    with torch.no_grad():
        model[0].weight[:4], model[0].bias[:4] = 0, 0
    small = sl.compact(model, DATA[0][0])
    assert small[0].out_features == 4
    assert small[3].training
    assert not small[3].merged
    torch.testing.assert_close(small(DATA[0][0]), model(DATA[0][0]), rtol=1e-3, atol=1e-4)
