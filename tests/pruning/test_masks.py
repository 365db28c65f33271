"""find_masks: what is pruned, how much, and how errors read."""

import numpy as np
import pytest
import torch
from support.small_nets import net
from torch import nn

import sparselth as sl
from sparselth.pruning import first_and_last, prunable_parameters


def test_first_convolution_and_classifier_stay_dense_by_default():
    assert set(sl.find_masks(net())) == {"1.weight", "2.weight"}
    assert set(sl.find_masks(net(), exclude=())) == {"0.weight", "1.weight", "2.weight", "4.weight"}
    assert set(sl.find_masks(net(), exclude=["1.weight"])) == {"0.weight", "2.weight", "4.weight"}


def test_the_first_convolution_and_the_classifier_by_name():
    model = net()
    assert first_and_last(model) == ("0.weight", "4.weight")
    first, last = first_and_last(model)
    for one, others in ((first, {"1.weight", "2.weight", last}), (last, {first, "1.weight"})):
        assert set(prunable_parameters(model, exclude=[one])) >= others
        assert one not in prunable_parameters(model, exclude=[one])
    two_linear = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert first_and_last(two_linear) == (None, "2.weight")
    assert first_and_last(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))) == (
        "0.weight",
        None,
    )
    assert first_and_last(nn.Linear(4, 3)) == (None, "weight")
    assert first_and_last(nn.ReLU()) == (None, None)


def test_the_largest_magnitudes_survive():
    model = net()
    mask = sl.find_masks(model, sparsity=0.7)["1.weight"]
    weight = model[1].weight.abs()
    assert weight[mask].min() >= weight[~mask].max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "hessian"}, "unknown score 'hessian'; known: apoz, bn-scale"),
        (
            {"pattern": "row"},
            "unknown pattern 'row'; known: N:M, RxC, channel, column, coupled, element, filter",
        ),
        ({"pattern": "2:4", "sparsity": 0.9}, "2:4 fixes the sparsity at 0.5"),
        ({"pattern": "kernel_shape", "sparsity": 0.1}, "prune 55.6% of the weights by themselves"),
        ({"pattern": "2:4", "sparsity": {"*": 0.5}}, "take a pattern that leaves it free"),
        (
            {"allocation": "even"},
            "unknown allocation 'even'; known: erk, given, global, lamp, uniform",
        ),
        ({"sparsity": 1.0}, r"^sparsity is the share of weights to prune, in \[0, 1\); got 1.0"),
        ({"allocation": "erk", "sparsity": {"*": 0.5}}, "got dict and 'erk'"),
        ({"sparsity": -0.1}, r"in \[0, 1\); got -0.1"),
        ({"exclude": 5}, "exclude takes a list of names, got 5"),
        ({"include": None}, "include takes a list of names, got None"),
        ({"exclude": [5]}, r"exclude takes names, got \[5\]"),
        ({"score": ["magnitude"]}, "score must be one of apoz, .* or a function"),
        ({"sparsity": np.array([0.9])}, r"got array\(\[0\.9\]\); pass a number"),
        ({"sparsity": float("nan")}, r"in \[0, 1\); got nan"),
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


def test_a_random_score_is_uniform_over_all_weights():
    model = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100), nn.Linear(100, 10))
    options = {"score": "random", "sparsity": 0.8, "allocation": "global"}
    masks = sl.find_masks(model, **options)
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert int(kept.sum()) == 16_000
    # Hypergeometric, whichever part of the weights is looked at.
    magnitudes = sl.find_masks(model, sparsity=0.8, allocation="global")
    largest = torch.cat([mask.flatten() for mask in magnitudes.values()])
    first = torch.arange(80_000) < 60_000  # the first layer
    early = torch.arange(80_000) % 60_000 < 10_000  # of either
    for part in (largest, first, early):
        n = int(part.sum())
        sd = (n * 0.2 * 0.8 * (1 - n / 80_000)) ** 0.5
        assert abs(int(kept[part].sum()) - 0.2 * n) < 5 * sd


@pytest.mark.parametrize("pattern", ["element", "4x1", "filter", "2:4", "kernel_shape"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_random_score_follows_the_seed_and_not_the_weights(pattern, allocation):
    sparsity = None if pattern == "kernel_shape" else 0.5

    def drawn(model, seed):
        torch.manual_seed(seed)
        return sl.find_masks(
            model, score="random", sparsity=sparsity, allocation=allocation, pattern=pattern
        )

    model = net()
    masks, again, other = drawn(model, 1), drawn(net(), 1), drawn(model, 2)
    for name, mask in masks.items():
        assert torch.equal(again[name], mask)
    assert any(not torch.equal(other[name], mask) for name, mask in masks.items())
    if allocation == "uniform":
        by_size = sl.find_masks(model, sparsity=sparsity, pattern=pattern)
        assert any(not torch.equal(by_size[name], mask) for name, mask in masks.items())
        assert [int(m.sum()) for m in masks.values()] == [int(m.sum()) for m in by_size.values()]


def test_a_random_score_of_16_bit_weights_prefers_no_place():
    model = nn.Linear(400, 400).bfloat16()
    mask = sl.find_masks(model, score="random", sparsity=0.99, exclude=())["weight"]
    assert int(mask.sum()) == 1600
    assert abs(int(mask[:200].sum()) - 800) < 5 * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": "0.9"}, "got '0.9'; pass a number"),
        ({"sparsity": 90}, r"got 90; 90 % is 0\.9"),
        ({"sparsity": True}, "got True"),
        ({"sparsity": float("nan")}, "got nan"),
        ({"include": ["9.weight"]}, r"include names \['9\.weight'\]"),
    ],
)
def test_what_is_wrong_with_a_search_is_said_twice(options, message):
    model = net()
    for search in (sl.find_masks, sl.pruning.check_search):
        for _ in range(2):
            with pytest.raises(sl.SparselthError, match=message):
                search(model, **options)


def test_a_search_is_checked_without_ranking(monkeypatch):
    monkeypatch.setattr("sparselth.ops.selection.topk_mask", None)
    sl.pruning.check_search(net(), sparsity=0.5)
    with pytest.raises(sl.SparselthError, match="layers that need one each"):
        sl.pruning.check_search(net(), sparsity=0.9999, allocation="global")


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (5, "model must be a torch.nn.Module, got int"),
        ({"w": torch.ones(3)}, "the mask of 'w' must be bool"),
        ({"w": [True]}, "the mask of 'w' must be a torch bool tensor, got list"),
        ({1: torch.ones(3) > 0}, "got 1 for a name"),
    ],
)
def test_what_has_no_sparsity_is_named(of, message):
    with pytest.raises(sl.SparselthError, match=message):
        sl.sparsity(of)
    if isinstance(of, dict):
        with pytest.raises(sl.SparselthError, match=message):
            sl.pruning.check_alive(of)


@pytest.mark.parametrize("score", ["magnitude", "l1", "synflow"])
def test_a_model_without_values_is_refused(score):
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).to("meta")
    data = [(torch.randn(2, 8), None)]
    with pytest.raises(sl.SparselthError, match=r"0\.weight lies on the meta device"):
        sl.find_masks(model, score=score, data=data)
    with pytest.raises(sl.SparselthError, match="lies on the meta device"):
        sl.pruning.annealed_sparsities(model, 0.5, energy=lambda masks: 0.0)
