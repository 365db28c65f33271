"""Patterns made of others: filters with columns, and channels that go together."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.pruning.structured import filters_and_columns

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
DATA = [(X, torch.tensor([0, 1, 2, 3]))]


def is_product(mask):
    flat = mask.flatten(1)
    rows, columns = flat.any(1), flat.any(0)
    return torch.equal(flat, rows[:, None] & columns[None])


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (5, 7), (3, 2, 1, 5)])
@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.95])
def test_what_is_kept_are_columns_of_filters(shape, sparsity):
    torch.manual_seed(0)
    layer = (
        nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(*shape[1::-1], shape[2:])
    )
    masks = sl.find_masks(
        nn.Sequential(layer), sparsity=sparsity, pattern="filter+column", exclude=()
    )
    mask = masks["0.weight"]
    assert is_product(mask)
    count = max(round((1 - sparsity) * mask.numel()), 1)
    rows, columns = int(mask.flatten(1).any(1).sum()), int(mask.flatten(1).any(0).sum())
    assert abs(rows * columns - count) <= max(rows, columns)


def best_of_all(score, rows, columns):
    squares = score.flatten(1).square()
    return max(
        float(squares[list(r)][:, list(c)].sum())
        for r in itertools.combinations(range(squares.shape[0]), rows)
        for c in itertools.combinations(range(squares.shape[1]), columns)
    )


def test_small_cases_against_enumeration():
    """Never worse than filters first and columns after; nearly always the best there is."""
    torch.manual_seed(0)
    reached = []
    for _ in range(40):
        score = torch.randn(5, 6).double()
        (mask,) = filters_and_columns([score], [8])
        rows, columns = int(mask.any(1).sum()), int(mask.any(0).sum())
        kept = float(score[mask].square().sum())
        squares = score.square()
        first = squares.sum(1).topk(rows).indices
        after = squares[first].sum(0).topk(columns).values.sum()
        assert kept >= float(after) - 1e-9
        reached.append(kept / best_of_all(score, rows, columns))
    assert max(reached) <= 1 + 1e-9
    assert sum(share > 0.999 for share in reached) >= 20
    assert min(reached) > 0.75


def test_a_planted_product_is_found():
    score = torch.rand(8, 4, 3, 3) * 0.1
    rows, columns = [1, 5], torch.randperm(36)[:9]
    for row in rows:
        score[row].view(-1)[columns] += 1
    (mask,) = filters_and_columns([score], [18])
    assert mask.flatten(1).any(1).nonzero().flatten().tolist() == rows
    assert sorted(mask.flatten(1).any(0).nonzero().flatten().tolist()) == sorted(columns.tolist())


@pytest.mark.parametrize("allocation", ["global", "lamp"])
def test_products_go_by_layer(allocation):
    for _ in range(2):
        with pytest.raises(sl.SparselthError):
            sl.find_masks(
                nn.Linear(4, 4), pattern="filter+column", allocation=allocation, exclude=()
            )


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Linear(40, 4),
    )


def test_a_channel_goes_wherever_it_is():
    pytest.importorskip("torch_pruning")
    model = net()
    masks = sl.find_masks(model, sparsity=0.5, pattern="coupled", data=DATA, exclude=())
    made = masks["0.weight"].flatten(1).all(1)
    assert torch.equal(masks["3.weight"].flatten(1).all(1), made)
    assert torch.equal(masks["6.weight"].flatten(2).all(2).any(0), made)
    last = masks["6.weight"].flatten(1).any(1)
    assert torch.equal(masks["10.weight"][0].view(10, 4).all(1), last)
    assert (int(made.sum()), int(last.sum())) == (4, 5)
    by_hand = model[0].weight.flatten(1).square().sum(1) + model[3].weight.flatten(1).square().sum(
        1
    )
    assert torch.equal(by_hand.topk(4).indices.sort().values, made.nonzero().flatten())


def test_what_is_excluded_stays_whole_with_all_that_goes_with_it():
    pytest.importorskip("torch_pruning")
    model = net()
    masks = sl.find_masks(model, sparsity=0.5, pattern="coupled", data=DATA)
    assert "0.weight" not in masks  # the first convolution, and so its channels
    assert masks["3.weight"].all()
    assert not masks["10.weight"].all()  # the classifier loses the inputs that are gone
    masks = sl.find_masks(model, sparsity=0.5, pattern="coupled", data=DATA, exclude=["10.weight"])
    assert masks["6.weight"].flatten(1).any(1).all()
    assert "10.weight" not in masks


def test_all_groups_together_each_keep_one():
    pytest.importorskip("torch_pruning")
    model = net()
    with torch.no_grad():
        model[6].weight *= 1e-6
    masks = sl.find_masks(
        model, sparsity=0.6, pattern="coupled", allocation="global", data=DATA, exclude=()
    )
    assert int(masks["6.weight"].flatten(1).any(1).sum()) == 1
    assert int(masks["0.weight"].flatten(1).any(1).sum()) == 6


def test_gradually_with_what_is_taken_but_not_ranked():
    pytest.importorskip("torch_pruning")
    model = net()
    masks = sl.find_masks(model, sparsity=0.5, pattern="coupled", data=DATA)
    again = sl.find_masks(model, sparsity=0.5, pattern="coupled", data=DATA, within=masks)
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())
    pruning = sl.GradualPruning(model, 0.5, end=4, every=2, pattern="coupled", data=DATA)
    for _ in range(4):
        pruning.step()
    assert int(sl.masks_of(model)["6.weight"].flatten(1).any(1).sum()) == 5


def test_in_steps_and_within():
    pytest.importorskip("torch_pruning")
    model = net()
    options = {"pattern": "coupled", "data": DATA, "exclude": (), "loss": cross_entropy}
    half = sl.find_masks(model, sparsity=0.5, **options)
    more = sl.find_masks(model, score="snip", sparsity=0.75, within=half, steps=2, **options)
    assert all((half[name] | ~mask).all() for name, mask in more.items())
    assert int(more["0.weight"].flatten(1).any(1).sum()) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "finds which channels go together by an input; pass data"),
        ({"data": DATA, "sparsity": {"*": 0.5}}, "takes one share, of the channels"),
        ({"data": DATA, "allocation": "erk"}, "takes one share, of the channels"),
        ({"data": DATA, "exclude": ["*"]}, "nothing|no "),
        ({"data": DATA, "score": "grasp", "loss": cross_entropy}, "ranks single weights"),
        ({"data": DATA, "score": "lfpc", "loss": cross_entropy}, "one layer at a time"),
    ],
)
def test_bad_input(options, says):
    pytest.importorskip("torch_pruning")
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            sl.find_masks(net(), pattern="coupled", **options)


def test_a_score_that_is_the_same_for_all_ranks_no_channels():
    pytest.importorskip("torch_pruning")
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3)),
        *(nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)),
    )
    options = {"score": "bn-scale", "pattern": "coupled", "data": DATA, "exclude": ["7.weight"]}
    for _ in range(2):  # as drawn, all scales are one
        with pytest.raises(sl.SparselthError, match="'bn-scale' is the same for all"):
            sl.find_masks(model, sparsity=0.5, **options)
