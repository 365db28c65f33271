"""Masks within masks: nothing that was pruned comes back."""

import pytest
import torch
from torch import nn

import sparselth as sl


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 5)
    )


def opposite(weights, context):
    """Rank what magnitude prunes highest."""
    return {name: 1 / (1e-3 + weight.abs()) for name, weight in weights.items()}


@pytest.mark.parametrize("score", ["magnitude", "random", opposite])
@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_was_pruned_stays_so_and_counts_are_exact(score, allocation, dtype):
    model = net().to(dtype)
    for layer in (0, 1, 2, 4):  # of one size each, else "global" empties layers
        nn.init.normal_(model[layer].weight)
    options = {"allocation": allocation, "exclude": ()}
    first = sl.find_masks(model, sparsity=0.5, **options)
    second = sl.find_masks(model, score=score, sparsity=0.8, within=first, **options)
    alone = sl.find_masks(model, score=score, sparsity=0.8, **options)
    assert sum(m.sum() for m in second.values()) == sum(m.sum() for m in alone.values())
    for name, mask in second.items():
        assert not (mask & ~first[name]).any()
        if allocation != "global":
            assert mask.sum() == alone[name].sum()


def test_among_what_is_left_the_score_decides():
    model, within = net(), {"1.weight": torch.rand(8, 8, 3, 3) < 0.5}
    mask = sl.find_masks(model, score=opposite, sparsity=0.75, within=within)["1.weight"]
    size = model[1].weight.abs()
    assert size[mask].max() <= size[within["1.weight"] & ~mask].min()


@pytest.mark.parametrize("pattern", ["element", "filter"])
def test_scores_next_to_nothing_are_ranked_as_any(pattern):
    model, within = net(), {"1.weight": torch.rand(8, 8, 3, 3) < 0.7}

    def tiny(weights, context):
        return {name: 1e-38 * weight for name, weight in weights.items()}

    options = {"sparsity": 0.5, "within": within, "pattern": pattern}
    masks = [sl.find_masks(model, score=score, **options) for score in ("magnitude", tiny)]
    assert masks[0]["1.weight"].equal(masks[1]["1.weight"])


def test_weights_of_zero_that_are_left_go_before_pruned_ones():
    model = net()
    within = {"1.weight": torch.zeros(8, 8, 3, 3, dtype=torch.bool)}
    within["1.weight"][4:] = True
    with torch.no_grad():
        model[1].weight[4:] = 0
    assert sl.find_masks(model, sparsity=0.5, within=within)["1.weight"].equal(within["1.weight"])


@pytest.mark.parametrize("pattern", ["filter", "16x1", "2:4", "kernel"])
def test_patterns_keep_groups_of_what_is_left(pattern):
    model = net()
    within = {"1.weight": torch.ones(8, 8, 3, 3, dtype=torch.bool)}
    within["1.weight"][:, ::2] = False
    options = {} if pattern == "2:4" else {"sparsity": 0.5}
    mask = sl.find_masks(model, pattern=pattern, within=within, **options)["1.weight"]
    assert mask.any()
    assert not (mask & ~within["1.weight"]).any()


def test_a_ticket_of_several_rounds_takes_any_score():
    digits = sl.data.load("mnist5k").limited(train=32, test=32)
    recipe = sl.Recipe(epochs=1, learning_rate=0.1, batch_size=32)
    for score in ("magnitude", "random", opposite):
        model = sl.models.build("conv4", num_classes=10, in_channels=1, width=0.125)
        ticket = sl.find_ticket(model, digits, recipe, 0.75, rounds=3, score=score)
        assert sl.sparsity(ticket.masks) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("within", "message"),
    [
        (5, "within must be a mapping of .*; got int"),
        (
            {"9.weight": torch.ones(2) > 0},
            r"within names \['9.weight'\], which are not ranked",
        ),
        ({"0.weight": torch.ones(8, 3, 3, 3) > 0}, r"within names \['0.weight'\]"),
        ({"1.weight": torch.ones(2) > 0}, r"the mask of '1.weight' in within has shape \(2,\)"),
        ({"1.weight": torch.ones(8, 8, 3, 3)}, "must be bool"),
        (
            {"1.weight": torch.rand(8, 8, 3, 3) < 0.05},
            "within leaves .* weights of 1.weight, and the sparsity keeps 58: it is a share of all",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(within, message):
    with pytest.raises(sl.SparselthError, match=message):
        sl.find_masks(net(), sparsity=0.9, within=within)


def test_steps_prune_the_same_share_of_what_is_left_each_time():
    seen = []

    def score(weights, context):
        seen.append({name: int(mask.sum()) for name, mask in context.masks.items()})
        return opposite(weights, context)

    model = net()
    masks = sl.find_masks(model, score=score, sparsity=0.875, steps=3)
    assert seen == [{}, {"1.weight": 288, "2.weight": 64}, {"1.weight": 144, "2.weight": 32}]
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "1.weight": 72,
        "2.weight": 16,
    }
    alone = sl.find_masks(model, score=opposite, sparsity=0.875)
    assert all(torch.equal(masks[name], alone[name]) for name in masks)  # it ranks as it did
    shares = sl.find_masks(model, sparsity={"1.weight": 0.75, "*": 0.5}, steps=2)
    assert {name: int(m.sum()) for name, m in shares.items()} == {"1.weight": 144, "2.weight": 64}
    filters = sl.find_masks(model, pattern="filter", sparsity=0.75, steps=2)
    assert int(filters["2.weight"].flatten(1).any(1).sum()) == 4


def test_steps_begin_where_within_ends():
    seen = []

    def score(weights, context):
        seen.append({name: int(mask.sum()) for name, mask in context.masks.items()})
        return weights

    model = net()
    within = sl.find_masks(model, sparsity=0.5)
    masks = sl.find_masks(model, score=score, sparsity=0.875, steps=2, within=within)
    assert seen == [{"1.weight": 288, "2.weight": 64}, {"1.weight": 144, "2.weight": 32}]
    assert all(not (mask & ~within[name]).any() for name, mask in masks.items())
    seen.clear()
    shares = {"1.weight": 0.875, "2.weight": 0.5}
    sl.find_masks(model, score=score, sparsity=shares, steps=2, within=within)
    assert seen[1] == {"1.weight": 144, "2.weight": 64}
    data = [(torch.randn(1, 3, 5, 5), None)]
    flow = sl.find_masks(model, score="synflow", sparsity=0.9, data=data, within=within)
    assert sl.sparsity(flow) == pytest.approx(0.9, abs=0.005)


def test_data_that_can_be_read_once_serves_every_step():
    model, data = net(), [(torch.randn(2, 3, 5, 5), torch.zeros(2).long())]
    options = {"score": "snip", "loss": torch.nn.functional.cross_entropy, "steps": 3}
    once = sl.find_masks(model, data=iter(data), **options)
    listed = sl.find_masks(model, data=data, **options)
    assert all(torch.equal(once[name], listed[name]) for name in listed)


def test_a_shared_weight_is_left_by_any_of_its_names():
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 2)})
    model["b"].weight = model["a"].weight
    within = {"b.weight": torch.rand(8, 8) < 0.6}
    for steps in (1, 3):
        masks = sl.find_masks(model, sparsity=0.8, within=within, steps=steps)
        assert not (masks["a.weight"] & ~within["b.weight"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number >= 1, got 2.5"),
        (
            {"steps": 2, "pattern": "2:4"},
            "pattern='2:4' fixes the sparsity, and steps=2",
        ),
    ],
)
def test_steps_that_cannot_be(options, message):
    with pytest.raises(sl.SparselthError, match=message):
        sl.find_masks(net(), **options)


def filters_of(masks):
    return {name: int(mask.flatten(1).any(1).sum()) for name, mask in masks.items()}


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_filters_of_unlike_size_are_pruned_to_the_share_that_was_asked(steps):
    """The share of the weights that is pruned already is not that of the filters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.Conv2d(10, 100, 3), nn.Conv2d(100, 100, 3))
    with torch.no_grad():
        model[2].weight[:60] *= 0.01
        model[2].weight[60:] *= 10
    options = {"score": "l1", "allocation": "global", "exclude": ["0.weight"]}
    first = sl.find_masks(model, sparsity=0.2, **options)
    assert sum(filters_of(first).values()) == 160
    masks = sl.find_masks(model, sparsity=0.3, within=first, steps=steps, **options)
    assert sum(filters_of(masks).values()) == 140


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_channels_that_go_together_too(steps):
    pytest.importorskip("torch_pruning")
    model = nn.Sequential(
        *(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 20, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(320, 4)),
    )
    options = {"pattern": "coupled", "exclude": (), "data": [(torch.randn(2, 3, 8, 8), None)]}
    half = sl.find_masks(model, sparsity=0.5, **options)
    masks = sl.find_masks(model, sparsity=0.6, within=half, steps=steps, **options)
    assert filters_of(masks) == {"0.weight": 8, "2.weight": 8, "5.weight": 4}


@pytest.mark.parametrize("pattern", ["channel", "kernel", "column", "4x3"])
def test_steps_begin_at_the_share_of_groups(pattern):
    seen = []

    def schedule(part, first, last):
        seen.append(first)
        return last

    model = nn.Sequential(nn.ConvTranspose2d(5, 8, 3))
    options = {"exclude": (), "pattern": pattern}
    within = sl.find_masks(model, sparsity=0.5, **options)
    mask = within["0.weight"].transpose(0, 1)
    if pattern in ("channel", "kernel"):
        boxes = mask.flatten(2).any(2)
        whole = boxes.any(0) if pattern == "channel" else boxes
        pruned = 1 - float(whole.double().mean())
        sl.find_masks(model, sparsity=0.9, steps=2, within=within, schedule=schedule, **options)
        assert seen[-1] == pytest.approx(pruned)
    else:
        sl.find_masks(model, sparsity=0.9, steps=2, within=within, schedule=schedule, **options)
        assert seen[-1] == pytest.approx(0.5, abs=0.04)
    seen.clear()
    sl.find_masks(model, sparsity=0.3, steps=2, within=within, schedule=schedule, **options)
    assert seen[-1] == 0.3  # never from more than is asked


def test_a_share_of_multiplications_is_none_of_weights():
    """Masks that prune most weights may save few multiplications."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 64))
    model.append(nn.Linear(64, 3))
    data = [(torch.randn(1, 3, 8, 8), None)]
    within = {"3.weight": torch.rand(64, 128) < 0.05}
    options = {"score": "magnitude", "budget": "flops", "data": data, "allocation": "global"}
    for steps in (1, 3):
        masks = sl.find_masks(model, sparsity=0.6, within=within, steps=steps, **options)
        costs = {"1.weight": 16, "3.weight": 1}
        left = sum(costs[n] * int(m.sum()) for n, m in masks.items())
        whole = sum(costs[n] * m.numel() for n, m in masks.items())
        assert 1 - left / whole == pytest.approx(0.6, abs=0.01)
    with pytest.raises(sl.SparselthError, match=r"within saves 0\.4.* already"):
        sl.find_masks(model, sparsity=0.3, within=within, **options)
