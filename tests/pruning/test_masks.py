"""find_masks: what is pruned, how much, and how errors read."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.ops.patterns import find_pattern
from sparselth.ops.reference_selection import block_scores
from sparselth.pruning.patterns import kernel_shapes


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


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("pattern", ["4x1", "1x4", "4x4", "filter", "channel", "kernel"])
def test_groups_are_pruned_as_one(pattern, allocation):
    masks = sl.find_masks(net(), sparsity=0.5, pattern=pattern, allocation=allocation)
    groups = find_pattern(pattern)
    kept = 0
    for mask in masks.values():
        scores = block_scores(mask.float().view(*mask.shape[:2], -1), groups.encode()[1:])
        sizes = torch.tensor([0.0, scores.max()])
        assert torch.isin(scores, sizes).all()  # a group stays whole or goes
        kept += int((scores > 0).sum())
    assert kept == sum(groups.groups(m.shape) for m in masks.values()) / 2


def test_every_kernel_keeps_a_shape_of_the_dictionary_found():
    model = net()
    shapes = kernel_shapes([model[1].weight], entries=4, count=3)
    masks = sl.find_masks(model, pattern=shapes)
    bits = (masks["1.weight"].flatten(2) << torch.arange(9)).sum(-1)
    assert set(bits.flatten().tolist()) == set(shapes.shapes)
    assert masks["2.weight"].all()  # 1x1 kernels are kept whole


def test_shapes_are_those_that_most_kernels_would_choose():
    weight = torch.zeros(4, 1, 3, 3)
    for kernel, taps in enumerate([(0, 1), (2, 8), (2, 8), (4, 5)]):
        weight[kernel].view(-1)[list(taps)] = torch.tensor([-2.0, 1.0])
    found = kernel_shapes([weight, torch.ones(3, 3)], entries=2, count=3)
    assert found.shapes == (1 << 2 | 1 << 8, 0b11, 1 << 4 | 1 << 5)
    with pytest.raises(ValueError, match="no weight has kernels of 25 taps"):
        kernel_shapes([weight], taps=25)


def test_two_of_four_by_name():
    mask = sl.find_masks(net(), pattern="2:4")["1.weight"]
    assert (mask.view(8, 2, 4, 3, 3).sum(2) == 2).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "taylor"}, "unknown score 'taylor'; known: magnitude"),
        ({"pattern": "row"}, "unknown pattern 'row'; known: N:M, RxC, channel, element, filter"),
        ({"pattern": "2:4", "sparsity": 0.9}, "2:4 fixes the sparsity at 0.5"),
        ({"pattern": "kernel_shape", "sparsity": 0.1}, "prune 55.6% of the weights by themselves"),
        ({"pattern": "2:4", "sparsity": {}, "allocation": "given"}, "a pattern that leaves it fr"),
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
