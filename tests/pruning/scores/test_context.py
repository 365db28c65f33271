"""What a score of one's own gets beside the weights, and what it may ask for."""

from functools import partial

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import needs


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 3))


BATCH = (torch.randn(4, 6), torch.zeros(4))


def test_the_context_holds_what_find_masks_got():
    seen = []

    def score(weights, context):
        seen.append(context)
        return weights

    def loss(out, y):
        return out.sum()

    model, data, within = net(), [BATCH], {"2.weight": torch.rand(8, 8) < 0.7}
    sl.find_masks(model, score=score, data=data, loss=loss, within=within)
    assert seen[0].model is model
    assert seen[0].data is data
    assert seen[0].loss is loss
    assert seen[0].masks.keys() == {"2.weight"}
    sl.find_masks(model, score=score)
    assert (seen[1].data, seen[1].loss, seen[1].masks) == (None, None, {})


def test_what_a_score_needs_is_asked_for_before_anything_is_done():
    @needs("data")
    def score(weights, context):
        raise AssertionError("nothing was checked")

    with pytest.raises(sl.SparselthError, match="the score 'score' needs data; pass"):
        sl.find_masks(net(), score=score)
    with pytest.raises(sl.SparselthError, match="the score 'score' needs data; pass"):
        sl.pruning.check_search(net(), score=score)
    sl.pruning.check_search(net(), score=score, data=[BATCH])


def test_a_score_that_needs_something_leaves_no_trace():
    @needs("data")
    def score(weights, context):
        context.model.train()
        for x, _ in context.data:
            context.model(x)
        return {name: torch.rand_like(w) for name, w in weights.items()}

    model = net().eval()
    before = model[1].running_mean.clone()
    first = sl.find_masks(model, score=score, data=[BATCH])
    again = sl.find_masks(model, score=score, data=[BATCH])
    assert not model.training
    assert torch.equal(model[1].running_mean, before)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_random_masks_differ_from_call_to_call():
    model = net()
    first, again = (sl.find_masks(model, score="random", sparsity=0.5) for _ in range(2))
    assert not torch.equal(first["2.weight"], again["2.weight"])


def test_a_partial_score_is_declared_as_its_function():
    @needs("data", "loss", unit="filter")
    def score(weights, context, power=1):
        gradients = context.gradients(weights)
        return {name: (w * gradients[name]).sum(1) ** power for name, w in weights.items()}

    squared = partial(score, power=2)
    with pytest.raises(sl.SparselthError, match="the score 'score' needs data and loss; pass"):
        sl.find_masks(net(), score=squared)
    model = net().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"data": [BATCH], "loss": lambda out, y: out.square().mean(), "sparsity": 0.5}
    found = sl.find_masks(model, score=squared, **options)
    plain = sl.find_masks(model, score=score, **options)
    assert not model.training
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_what_no_context_has_cannot_be_needed():
    with pytest.raises(sl.SparselthError, match="unknown need 'dta'"):
        needs("dta")


@pytest.mark.parametrize("asks", ["gradients", "activations", "norms"])
def test_what_was_not_declared_and_is_not_there_is_said(asks):
    def score(weights, context):
        return dict(getattr(context, asks)(weights))

    with pytest.raises(sl.SparselthError, match=r'reads data and got none; declare needs\("data"'):
        sl.find_masks(net(), score=score)
    with pytest.raises(sl.SparselthError, match=r'the loss and got none; declare needs\("loss"'):
        sl.find_masks(net(), score=lambda w, context: context.gradients(w), data=[BATCH])
