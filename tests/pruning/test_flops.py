"""Multiplications against counts by hand, and sparsities that are a share of them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.pruning.flops import multiplications


def image(channels, size):
    return torch.zeros(1, channels, size, size)


@pytest.mark.parametrize(
    ("layer", "by_hand"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 8 * 3 * 9 * 8 * 8),
        (nn.Conv2d(3, 8, 3), 8 * 3 * 9 * 6 * 6),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), 8 * 3 * 9 * 4 * 4),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 1 * 9 * 8 * 8),
        (nn.Conv2d(3, 8, (1, 3), padding=(0, 1)), 8 * 3 * 3 * 8 * 8),
        (nn.Conv2d(3, 8, 3, dilation=2), 8 * 3 * 9 * 4 * 4),
    ],
    ids=["same", "valid", "stride", "groups", "oblong", "dilation"],
)
def test_a_convolution(layer, by_hand):
    assert multiplications(layer, image(3, 8)) == {"weight": by_hand}


def test_a_linear_layer_at_one_place_and_at_several():
    assert multiplications(nn.Linear(5, 7), torch.zeros(1, 5)) == {"weight": 35}
    assert multiplications(nn.Linear(5, 7), torch.zeros(1, 4, 5)) == {"weight": 4 * 35}


def test_a_network_by_layer():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 10),
    )
    assert multiplications(model, image(1, 8)) == {
        "0.weight": 4 * 9 * 64,
        "4.weight": 4 * 9 * 16,
        "6.weight": 640,
    }


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.conv(self.conv(x)[..., ::2, ::2])


def test_a_layer_used_twice_counts_twice():
    assert multiplications(Twice(), image(2, 4)) == {"conv.weight": 4 * 16 + 4 * 4}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    multiplications(model, image(1, 8))
    assert model.training is model[1].training is training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_model_that_does_not_take_the_image_keeps_no_hook():
    model = nn.Sequential(nn.Conv2d(1, 4, 3)).train()
    with pytest.raises(sl.SparselthError, match="cannot be called with"):
        multiplications(model, image(3, 8))
    assert model.training
    assert not model[0]._forward_hooks


def net():
    """Two layers of as many weights each; the first takes 16 times the multiplications."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)),
    )


DATA = [(torch.randn(6, 8, 8, 8), torch.randint(4, (6,)))]


def saved(model, masks):
    counts = multiplications(model, DATA[0][0][:1])
    whole = sum(counts[name] for name in masks)
    left = sum(counts[name] * int(m.sum()) / m.numel() for name, m in masks.items())
    return 1 - left / whole


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk", "lamp"])
@pytest.mark.parametrize("score", ["magnitude", "snip"])
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_a_share_of_the_multiplications_is_saved(allocation, score, sparsity):
    model = net()
    options = {"score": score, "allocation": allocation, "data": DATA, "loss": cross_entropy}
    options["exclude"] = ["7.weight"]
    masks = sl.find_masks(model, sparsity=sparsity, budget="flops", **options)
    assert sparsity <= saved(model, masks) < sparsity + 0.005
    weights = sl.find_masks(model, sparsity=sl.sparsity(masks), **options)
    assert all(torch.equal(weights[name], mask) for name, mask in masks.items())


def test_layers_that_cost_more_may_keep_more_weights_than_by_weights():
    """Where one threshold holds for all, the budget decides how far it goes."""
    model = net()
    with torch.no_grad():  # the costly layer has the smaller weights
        model[0].weight *= 0.1
    options = {"allocation": "global", "data": DATA, "exclude": ["7.weight"]}
    masks = sl.find_masks(model, sparsity=0.5, budget="flops", **options)
    assert masks["4.weight"].float().mean() > 0.9
    assert sl.sparsity(masks) < 0.35


@pytest.mark.parametrize("sparsity", [0, torch.tensor(0.5), 1e-9])
def test_any_number_is_a_share(sparsity):
    model = net()
    masks = sl.find_masks(
        model, sparsity=sparsity, budget="flops", data=iter(DATA), exclude=["7.weight"]
    )
    assert saved(model, masks) >= float(sparsity) - 1e-12


@pytest.mark.parametrize("pattern", ["filter", "4x1"])
def test_with_groups_and_in_steps(pattern):
    model = net()
    masks = sl.find_masks(
        model, sparsity=0.5, budget="flops", pattern=pattern, data=DATA, exclude=["7.weight"]
    )
    assert 0.5 <= saved(model, masks) < 0.6
    options = {"data": DATA, "loss": cross_entropy, "exclude": ["7.weight"], "score": "synflow"}
    masks = sl.find_masks(model, sparsity=0.8, budget="flops", steps=3, **options)
    assert 0.8 <= saved(model, masks) < 0.81


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": "seconds"}, "unknown budget 'seconds'"),
        ({"budget": "flops"}, "counts by an input; pass data"),
        ({"budget": "flops", "data": DATA, "pattern": "coupled"}, "one of the multiplications"),
        ({"budget": "flops", "data": DATA, "pattern": "2:4"}, "2:4"),
        ({"budget": "flops", "data": DATA, "sparsity": {"*": 0.5}}, "takes one sparsity"),
        ({"budget": "flops", "data": DATA, "sparsity": 0.9999}, "takes .* of the multiplications"),
        ({"budget": "flops", "data": [(torch.zeros(2, 3), None)]}, "cannot be called with"),
    ],
)
def test_bad_input(options, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            sl.find_masks(net(), **options)


class Tied(nn.Module):
    """Two layers of one weight, then another layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(self.c(self.b(self.a(x)).relu()).relu())


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_shared_weight_counts_for_each_of_its_layers(scale):
    torch.manual_seed(0)
    model = Tied()
    with torch.no_grad():
        model.c.weight.mul_(scale)
    data = [(torch.randn(1, 16), None)]
    masks = sl.find_masks(model, sparsity=0.5, budget="flops", allocation="global", data=data)
    left = 2 * int(masks["a.weight"].sum()) + int(masks["c.weight"].sum())
    assert left / 768 == pytest.approx(0.5, abs=0.005)
