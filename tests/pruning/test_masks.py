"""find_masks: what is pruned, how much, and how errors read."""

import pytest
import torch
from torch import nn

import sparselth as sl


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 5)
    )


def test_first_convolution_and_classifier_stay_dense_by_default():
    assert set(sl.find_masks(net())) == {"1.weight", "2.weight"}
    assert set(sl.find_masks(net(), exclude=())) == {"0.weight", "1.weight", "2.weight", "4.weight"}
    assert set(sl.find_masks(net(), exclude=["1.weight"])) == {"0.weight", "2.weight", "4.weight"}


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
def test_uniform_prunes_every_layer_alike_and_exactly(sparsity):
    for mask in sl.find_masks(net(), sparsity=sparsity).values():
        assert int((~mask).sum()) == round(sparsity * mask.numel())


def test_global_ranks_layers_together():
    model = net()
    with torch.no_grad():
        model[1].weight.mul_(100)
    masks = sl.find_masks(model, sparsity=0.5, allocation="global")
    assert sl.sparsity(masks) == pytest.approx(0.5, abs=1e-3)
    assert masks["1.weight"].float().mean() > masks["2.weight"].float().mean()


def test_the_largest_magnitudes_survive():
    model = net()
    mask = sl.find_masks(model, sparsity=0.7)["1.weight"]
    weight = model[1].weight.abs()
    assert weight[mask].min() >= weight[~mask].max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "taylor"}, "unknown score 'taylor'; known: magnitude"),
        ({"pattern": "2:4"}, "unknown pattern '2:4'; known: element"),
        ({"allocation": "erk"}, "unknown allocation 'erk'; known: given, global, uniform"),
        ({"sparsity": 1.0}, r"in \[0, 1\); got 1.0"),
        ({"sparsity": -0.1}, r"in \[0, 1\); got -0.1"),
        ({"exclude": ["stem.weight"]}, r"exclude names \['stem.weight'\]"),
    ],
)
def test_bad_input_is_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        sl.find_masks(net(), **options)


def test_nan_is_named():
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"2\.weight holds NaN or Inf"):
        sl.find_masks(model)


def test_nothing_to_prune():
    with pytest.raises(ValueError, match="no weight to prune"):
        sl.find_masks(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2)))
