"""SynFlow: the flow is conserved from layer to layer, and steps keep every layer alive."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import ScoreContext
from sparselth.pruning.scores import synflow


def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.ReLU()),
        *(nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten()),
        nn.Linear(6 * 16, 4, bias=False),
    )


DATA = [(torch.randn(3, 2, 4, 4), None)]


def weights_of(model):
    return {n: p.detach() for n, p in model.named_parameters() if p.dim() > 1}


def test_scores_are_shares_of_the_flow_and_add_up_to_the_same_in_every_layer():
    model = plain()
    scores = synflow(weights_of(model), ScoreContext(model, DATA))
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        for p in twin.parameters():
            p.abs_()
    flow = twin(torch.ones(1, 2, 4, 4, dtype=torch.float64)).sum()
    grads = torch.autograd.grad(flow, list(twin.parameters()))
    for (name, p), grad in zip(twin.named_parameters(), grads, strict=True):
        assert scores[name].dtype == torch.float64
        torch.testing.assert_close(scores[name], p.detach() * grad)
        torch.testing.assert_close(scores[name].sum(), flow.detach())


def test_a_hundred_steps_leave_a_path_where_one_step_does_not():
    torch.manual_seed(0)
    layers = [nn.Linear(16, 100), nn.ReLU()]
    for wide in (100, 30, 100):
        layers += [nn.Linear(layers[-2].out_features, wide), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(100, 4))
    data = [(torch.randn(2, 16), None)]
    options = {"sparsity": 0.995, "allocation": "global", "exclude": (), "data": data}
    masks = sl.find_masks(model, score="synflow", **options)
    total = sum(m.numel() for m in masks.values())
    assert sum(int(m.sum()) for m in masks.values()) == round(0.005 * total)
    pruned = sl.sparsify(copy.deepcopy(model), masks)
    flow = synflow(weights_of(pruned), ScoreContext(pruned, data, masks=masks))
    assert all(score.sum() > 0 for score in flow.values())
    with pytest.raises(sl.SparselthError, match="no weight is left"):
        sl.find_masks(model, score="synflow", steps=1, **options)


def test_what_is_pruned_already_carries_no_flow():
    model = plain()
    within = {n: torch.rand(w.shape) < 0.5 for n, w in weights_of(model).items()}
    found = synflow(weights_of(model), ScoreContext(model, DATA, masks=within))
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in within.items():
            pruned.get_parameter(name).mul_(mask)
    wanted = synflow(weights_of(pruned), ScoreContext(pruned, DATA))
    for name, mask in within.items():
        torch.testing.assert_close(found[name] * mask, wanted[name])


def test_the_model_is_left_as_it_was():
    model = sl.models.build("resnet20", num_classes=10, in_channels=3, width=0.25)
    model.train()
    before = copy.deepcopy(model.state_dict())
    data = [(torch.randn(2, 3, 8, 8), torch.zeros(2))]
    masks = sl.find_masks(model, score="synflow", sparsity=0.9, data=data, steps=3)
    assert sl.sparsity(masks) == pytest.approx(0.9, abs=1e-3)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (plain(), None, "the score 'synflow' needs data"),
        (plain(), [], "data holds no batch"),
        (plain(), [(None, None)], "data must begin with a batch"),
        (plain(), [(torch.ones(2, 5, 4, 4), None)], "cannot be called with an input of ones"),
    ],
)
def test_bad_input_is_one_clear_sentence(model, data, message):
    with pytest.raises(sl.SparselthError, match=message):
        sl.find_masks(model, score="synflow", data=data, steps=2)


def test_a_model_that_returns_several_has_no_sum():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            return self.inner(x), x

    with pytest.raises(sl.SparselthError, match="what the model returns, a tensor; got tuple"):
        sl.find_masks(Pair(), score="synflow", data=DATA)


def test_a_flow_of_nothing_ranks_nothing():
    model = plain()
    nn.init.zeros_(model[2].weight)
    with pytest.raises(sl.SparselthError, match="which ranks nothing"):
        sl.find_masks(model, score="synflow", data=DATA)
