"""Scores: one's own function in place of a name."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.pruning import SCORES, ScoreContext


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 5)
    )


def test_a_function_ranks_what_a_name_would():
    model = net()
    mine = sl.find_masks(model, score=lambda weights, context: weights, sparsity=0.7)
    named = sl.find_masks(model, score="magnitude", sparsity=0.7)
    assert all(torch.equal(mine[name], named[name]) for name in named)
    assert {"magnitude", "random", "snip", "grasp", "grasp-abs", "synflow"} <= set(SCORES)


def test_the_largest_magnitudes_of_the_scores_stay():
    score = {"1.weight": torch.randn(8, 8, 3, 3), "2.weight": torch.randn(16, 8, 1, 1)}
    masks = sl.find_masks(net(), score=lambda weights, context: score, sparsity=0.75)
    for name, mask in masks.items():
        kept, pruned = score[name].abs()[mask], score[name].abs()[~mask]
        assert len(kept) == len(pruned) / 3
        assert kept.min() >= pruned.max()


def test_a_score_may_differentiate_the_model():
    """SNIP in five lines: Lee et al. 2019, arXiv:1810.02340."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    seen = []

    def saliency(weights, context):
        seen.append(context)
        parameters = dict(context.model.named_parameters())
        loss = cross_entropy(context.model(x), y)
        grads = torch.autograd.grad(loss, [parameters[name] for name in weights])
        return {name: g * weights[name] for name, g in zip(weights, grads, strict=True)}

    with torch.no_grad():  # whatever the caller's mode is
        masks = sl.find_masks(model, score=saliency, sparsity=0.5)
    assert seen == [ScoreContext(model)]
    assert set(masks) == {"0.weight", "2.weight"}
    cross_entropy(model(x), y).backward()
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        score = (weight.grad * weight).abs()
        assert score[mask].min() >= score[~mask].max()


def test_weights_come_detached_and_by_their_names_in_order():
    model = net()

    def score(weights, context):
        assert list(weights) == ["1.weight", "2.weight"]
        assert not any(weight.requires_grad for weight in weights.values())
        assert torch.is_grad_enabled()
        return weights

    sl.find_masks(model, score=score)
    assert sl.ADMM(model, sparsity=0.5).masks().keys() == {"1.weight", "2.weight"}


def test_patterns_and_allocations_take_scores_as_well():
    model = net()
    ones = {"1.weight": torch.full((8, 8, 3, 3), 2.0), "2.weight": torch.ones(16, 8, 1, 1)}
    options = {"score": lambda weights, context: ones, "sparsity": 0.1}
    masks = sl.find_masks(model, allocation="global", **options)
    assert masks["1.weight"].all()
    assert not masks["2.weight"].all()
    filters = sl.find_masks(model, pattern="filter", **options)["2.weight"].flatten(1)
    assert torch.equal(filters.all(1), filters.any(1))
    assert int((~filters.all(1)).sum()) == 2


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda weights: weights, r"a function of \(weights, context\), got <function"),
        (nn.Linear, r"a function of \(weights, context\), got <class"),
        (dict, r"a function of \(weights, context\), got <class"),
        (
            0.9,
            "or a function .* got 0.9; a sparsity is given as sparsity=...",
        ),
        (lambda weights, context: {n: w.to_sparse() for n, w in weights.items()}, "sparse_coo"),
        (lambda weights, context: None, "'<lambda>' must return a mapping .* got NoneType"),
        (lambda weights, context: {}, r"differ in these names: \['1.weight', '2.weight'\]"),
        (
            lambda weights, context: {n: w + 0j for n, w in weights.items()},
            r"a tensor of real numbers, \(8, 8, 3, 3\) .* got torch.complex64",
        ),
        (
            lambda weights, context: {n: w.sum() for n, w in weights.items()},
            r"\(8, 8, 3, 3\) for '1.weight'; got torch.float32 of shape \(\)",
        ),
        (lambda weights, context: dict.fromkeys(weights, 1.0), "for '1.weight'; got float"),
        (
            lambda weights, context: {n: w.to("meta") for n, w in weights.items()},
            "on cpu; got one on meta",
        ),
        (
            lambda weights, context: {n: w * torch.nan for n, w in weights.items()},
            "score .<lambda>.* of .1.weight. holds NaN or Inf",
        ),
    ],
)
def test_what_is_no_score_is_said_in_one_sentence(score, message):
    with pytest.raises(ValueError, match=message):
        sl.find_masks(net(), score=score)


def test_a_score_may_write_to_what_it_gets():
    model = net()
    before = {name: p.clone() for name, p in model.named_parameters()}

    def score(weights, context):
        for name in list(weights):
            weights[name] = weights[name].abs_().flatten()
        return weights

    with pytest.raises(ValueError, match=r"\(8, 8, 3, 3\) for '1.weight'; got .* \(576,\)"):
        sl.find_masks(model, score=score)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float64])
def test_scores_of_other_types_are_ranked_too(dtype):
    ranks = {"1.weight": torch.randint(0, 200, (8, 8, 3, 3)).to(dtype)}

    def score(weights, context):
        return {name: ranks.get(name, w) for name, w in weights.items()}

    mask = sl.find_masks(net(), score=score, sparsity=0.5)["1.weight"]
    assert ranks["1.weight"][mask].double().min() >= ranks["1.weight"][~mask].double().max()


def test_gradients_are_on_within_a_score_whatever_is_around_it():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def score(weights, context):
        loss = context.model(torch.randn(2, 4)).sum()
        (grad,) = torch.autograd.grad(loss, [context.model[0].weight])
        return dict.fromkeys(weights, grad)

    for around in (torch.no_grad, torch.inference_mode):
        with around():
            assert set(sl.find_masks(model, score=score)) == {"0.weight"}


def test_an_error_of_the_score_is_its_own():
    def score(weights, context):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sl.find_masks(net(), score=score)
