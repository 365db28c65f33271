"""find_masks: what is pruned, how much, and how errors read."""

import numpy as np
import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.ops.patterns import find_pattern
from sparselth.ops.reference.ranking import block_scores
from sparselth.pruning import check_alive, first_and_last, prunable_parameters
from sparselth.pruning.patterns import kernel_shapes


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 5)
    )


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


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
def test_uniform_prunes_every_layer_alike_and_exactly(sparsity):
    for mask in sl.find_masks(net(), sparsity=sparsity).values():
        assert int((~mask).sum()) == round(sparsity * mask.numel())


def test_global_ranks_layers_together():
    model = net()
    with torch.no_grad():
        model[1].weight.mul_(4)
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
    model = net()
    with torch.no_grad():
        model[1].weight.mul_(1.4)  # else "global" takes all channels from the other
    masks = sl.find_masks(model, sparsity=0.5, pattern=pattern, allocation=allocation)
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
        ({"score": "taylor"}, "unknown score 'taylor'; known: magnitude, random"),
        ({"pattern": "row"}, "unknown pattern 'row'; known: N:M, RxC, channel, element, filter"),
        ({"pattern": "2:4", "sparsity": 0.9}, "2:4 fixes the sparsity at 0.5"),
        ({"pattern": "kernel_shape", "sparsity": 0.1}, "prune 55.6% of the weights by themselves"),
        ({"pattern": "2:4", "sparsity": {"*": 0.5}}, "take a pattern that leaves it free"),
        ({"allocation": "lamp"}, "unknown allocation 'lamp'; known: erk, given, global, uniform"),
        ({"sparsity": 1.0}, r"^sparsity is the share of weights to prune, in \[0, 1\); got 1.0"),
        ({"allocation": "erk", "sparsity": {"*": 0.5}}, "got dict and 'erk'"),
        ({"sparsity": -0.1}, r"in \[0, 1\); got -0.1"),
        ({"exclude": 5}, "exclude takes a list of names, got 5"),
        ({"include": None}, "include takes a list of names, got None"),
        ({"exclude": [5]}, r"exclude takes names, got \[5\]"),
        ({"score": ["magnitude"]}, r"unknown score \['magnitude'\]"),
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


def small_layers():
    return nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 3), nn.Linear(3, 2), nn.Linear(2, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.995},
        {
            "sparsity": {"0.weight": 0.995, "1.weight": 0.995, "2.weight": 0.995},
            "allocation": "given",
        },
    ],
)
@pytest.mark.parametrize("make", ["find_masks", "ADMM"])
def test_one_weight_stays_and_one_warning_says_where(options, make):
    with pytest.warns(UserWarning, match="rounding leaves no weight") as caught:
        found = getattr(sl, make)(small_layers(), **options)
    masks = found if make == "find_masks" else found.masks()
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1, 1]
    assert [str(w.message) for w in caught] == [
        "rounding leaves no weight in some layers, where one is kept instead: "
        "1.weight (60 weights, sparsity 0.995 asked, 0.983333 reached), "
        "2.weight (6 weights, sparsity 0.995 asked, 0.833333 reached)"
    ]
    assert caught[0].filename == __file__


@pytest.mark.parametrize("make", ["find_masks", "ADMM"])
def test_one_group_stays(make):
    with pytest.warns(UserWarning, match="leaves no group in some") as caught:
        found = getattr(sl, make)(small_layers(), sparsity=0.9, pattern="filter")
    assert "1.weight (60 weights in 3 groups, sparsity 0.9 asked, 0.666667 reached)" in str(
        caught[0].message
    )
    masks = found if make == "find_masks" else found.masks()
    assert [int(mask.any(1).sum()) for mask in masks.values()] == [2, 1, 1]
    assert [int(mask.sum()) for mask in masks.values()] == [20, 20, 3]


def test_one_kernel_with_its_shape_stays():
    shapes = kernel_shapes([torch.randn(8, 8, 3, 3)])
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    with pytest.warns(
        UserWarning, match=r"0.weight \(18 weights in 2 groups, sparsity 0.95 asked, "
    ):
        masks = sl.find_masks(model, sparsity=0.95, pattern=shapes, exclude=())
    assert [int(mask.sum()) for mask in masks.values()] == [4, 4]


@pytest.mark.filterwarnings("error")
def test_no_warning_without_need():
    model = small_layers()
    sl.find_masks(model, sparsity=0.8)
    sl.find_masks(model, sparsity=0.99, exclude=["1.weight", "2.weight", "3.weight"])
    model[1].weight = nn.Parameter(torch.empty(0, 20))  # nothing there that could stay
    sl.find_masks(model, sparsity=0.8)


def test_global_that_leaves_a_layer_nothing_is_an_error():
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(5)))
    with torch.no_grad():
        model[1].weight.mul_(1e-3)
        model[3].weight.mul_(1e-3)
    with pytest.raises(
        sl.SparselthError, match=r"no weight is left in 1\.weight, 3\.weight; lower"
    ):
        sl.find_masks(model, sparsity=0.9, allocation="global")
    assert all(m.any() for m in sl.find_masks(model, sparsity=0.9).values())


def test_only_masks_without_any_weight_are_dead():
    none, one = torch.zeros(2, 3, dtype=torch.bool), torch.eye(3) > 0
    check_alive({})
    check_alive({"a": one, "empty": torch.empty(0, 3, dtype=torch.bool)})
    with pytest.raises(sl.SparselthError, match=r"in b, c; .*allocation=\"uniform\", which keeps"):
        check_alive({"a": one, "b": none, "c": none})


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
