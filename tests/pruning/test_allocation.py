"""How many weights stay in each layer: at least one, with a warning that says where."""

import pytest
import torch
from support.small_nets import net
from torch import nn

import sparselth as sl
from sparselth.pruning import check_alive
from sparselth.pruning.patterns import kernel_shapes


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


@pytest.mark.parametrize("score", ["movement", "grasp", sl.pruning.inverted_score("magnitude")])
def test_lamp_wants_magnitudes(score):
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    options = {"initial": model.state_dict(), "data": [(torch.randn(2, 8), torch.zeros(2).long())]}
    options["loss"] = nn.functional.cross_entropy
    with pytest.raises(
        sl.SparselthError, match="compares magnitudes within a layer, and the score"
    ):
        sl.find_masks(model, score=score, allocation="lamp", **options)
