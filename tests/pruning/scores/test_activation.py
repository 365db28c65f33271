"""Scores of filters by what they give: formulas by hand, planted filters, one norm for each."""

import math

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import ScoreContext
from sparselth.pruning.scores import SCORES, activation


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    return model.eval()


def batches(*sizes):
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 2, 9, 9, generator=draw), None) for n in sizes]


def scores(name, model, data):
    weights = {"0.weight": model[0].weight.detach()}
    return SCORES[name](weights, ScoreContext(model, data))["0.weight"]


@pytest.mark.parametrize("sizes", [(8,), (5, 3)])
def test_means_over_all_examples(sizes):
    model, data = net(), batches(*sizes)
    given = model[:3](torch.cat([x for x, _ in data])).detach().double()
    torch.testing.assert_close(scores("dropnet", model, data), given.mean((0, 2, 3)))
    torch.testing.assert_close(scores("apoz", model, data), (given > 0).double().mean((0, 2, 3)))
    ranks = [[torch.linalg.matrix_rank(one).item() for one in example] for example in given]
    by_hand = torch.tensor(ranks, dtype=torch.float64).mean(0)
    torch.testing.assert_close(scores("hrank", model, data), by_hand, rtol=0, atol=0.5)


def test_activations_below_zero():
    model = net()
    model[2] = nn.Tanh()
    given = model[:3](batches(8)[0][0]).detach().double()
    torch.testing.assert_close(scores("dropnet", model, batches(8)), given.mean((0, 2, 3)))
    by_hand = given.abs().mean((0, 2, 3))
    torch.testing.assert_close(scores("mean-activation", model, batches(8)), by_hand)


def test_the_lowest_mean_goes_first_and_not_the_smallest():
    """DropNet takes no magnitude: a filter far below zero goes before one that gives nothing."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.fill_(0.01).mul_(torch.tensor([[1.0], [2.0], [3.0]]))
        model[0].bias.copy_(torch.tensor([-2.0, 0.1, 1.0]))
    data = [(torch.randn(64, 2), None)]
    options = {"data": data, "sparsity": 0.34, "exclude": ["2.weight"]}
    left = sl.find_masks(model, score="dropnet", **options)["0.weight"]
    assert left.all(1).tolist() == [False, True, True]
    left = sl.find_masks(model, score="mean-activation", **options)["0.weight"]
    assert left.all(1).tolist() == [True, False, True]


def test_planted_ranks():
    """One filter passes a picture of rank 1 on, another one of full rank."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2).view(2, 2, 1, 1))
    flat = torch.outer(torch.rand(32) + 0.1, torch.rand(32) + 0.1)
    full = torch.eye(32) * 5 + torch.rand(32, 32)
    data = [(torch.stack([flat, full]).expand(4, 2, 32, 32), None)]
    assert scores("hrank", model, data).tolist() == [1.0, 32.0]


def test_ranks_want_matrices():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(sl.SparselthError, match=r"H and W above 1, and those of '0\.weight'"):
        sl.find_masks(model, score="hrank", data=[(torch.randn(5, 4), None)], exclude=())


def test_scales_of_norms():
    model = net()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -2.0, 0.1, 1.0, -0.2, 3.0]))
    masks = sl.find_masks(
        model, score="bn-scale", sparsity=0.5, data=batches(2), exclude=["3.weight"]
    )
    assert masks["0.weight"].flatten(1).all(1).tolist() == [False, True, False, True, False, True]


def test_scales_are_ranked_over_all_layers():
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.1, 0.2, 0.3, 0.8]))
        model[4].weight.copy_(torch.tensor([0.4, 0.5, 0.6, 0.7]))
    options = {"data": batches(2), "exclude": ["6.weight"], "allocation": "global"}
    masks = sl.find_masks(model, score="bn-scale", sparsity=0.5, **options)
    kept = [mask.flatten(1).all(1).tolist() for mask in masks.values()]
    assert kept == [[False, False, False, True], [False, True, True, True]]


def test_no_norm_is_said_before_anything():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match="batch norms, and the model has none"):
            sl.pruning.check_search(model, score="bn-scale", data=batches(2))


def entropies(outputs, bins):
    """H(i | j) of columns, by counting, nats."""
    n, count = outputs.shape
    low, high = outputs.amin(0), outputs.amax(0)
    cells = ((outputs - low) / (high - low) * bins).long().clamp(max=bins - 1).tolist()

    def entropy(values):
        return -sum(
            values.count(v) / n * math.log(values.count(v) / n) for v in sorted(set(values))
        )

    def given(i, j):
        both = [(row[i], row[j]) for row in cells]
        return entropy(both) - entropy([row[j] for row in cells])

    return [[given(i, j) for j in range(count)] for i in range(count)]


def test_conditional_entropies_are_those_of_the_counts():
    model, data = net(), batches(40, 24)
    given = model[:3](torch.cat([x for x, _ in data])).detach().double().mean((2, 3))
    told = entropies(given, 16)
    left, least, by_hand = set(range(6)), 0.0, {}
    while len(left) > 1:
        score, first = min((min(told[i][j] for j in left - {i}), i) for i in left)
        by_hand[first] = least = max(least, score)
        left.remove(first)
    found = scores("conditional-entropy", model, data)
    for i, value in by_hand.items():
        assert float(found[i]) == pytest.approx(value, abs=1e-9)
    assert float(found[left.pop()]) >= least


def test_of_a_copy_one_goes_first_and_the_other_stays():
    model = net()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias, *model[1].state_dict().values()):
            if tensor.dim():
                tensor[4] = tensor[1]
    found = scores("conditional-entropy", model, batches(200))
    assert min(float(found[1]), float(found[4])) == pytest.approx(0, abs=1e-12)
    assert max(float(found[1]), float(found[4])) > 0.1


@pytest.mark.parametrize(
    "name", ["hrank", "dropnet", "apoz", "bn-scale", "conditional-entropy", "mean-activation"]
)
def test_the_model_is_left_as_it_was(name):
    model = net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    sl.find_masks(model, score=name, sparsity=0.5, data=batches(8), exclude=["3.weight"])
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_entropies_in_blocks_of_filters_are_the_same(monkeypatch):
    outputs = torch.randn(60, 7).double()
    whole = activation._told_by_others(outputs)
    monkeypatch.setattr(activation, "_AT_ONCE", 2 * 7 * 16**2)
    assert torch.equal(activation._told_by_others(outputs), whole)
