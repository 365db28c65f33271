"""Weights that torch.nn.utils computes before each forward: refused by name, or taken over."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import sparselth as sl

REPARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "older weight_norm": weight_norm,
    "older spectral_norm": spectral_norm,
    "l1_unstructured": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "ln_structured": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "custom_from_mask": lambda layer: prune.custom_from_mask(layer, "weight", torch.ones(8, 8)),
}


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_a_computed_weight_is_refused_by_name_before_any_work(name):
    model = net()
    REPARAMETRIZED[name](model[2])
    want = model.eval()(X)
    for attempt in (
        lambda: sl.find_masks(model, sparsity=0.5),
        lambda: sl.ADMM(model, sparsity=0.5),
        lambda: sl.pruning.check_search(model, sparsity=0.5),
        lambda: sl.sparsify(model, {"2.weight": torch.rand(8, 8) < 0.5}),
    ):
        with pytest.raises(sl.SparselthError, match=r"2\.weight.*(computed before|torch_prune)"):
            attempt()
    assert torch.equal(model(X), want)
    masks = sl.find_masks(model, sparsity=0.5, exclude=["2.weight"])
    assert set(masks) == {"0.weight", "4.weight"}
    sl.sparsify(model, masks)
    model(X).sum().backward()


@pytest.mark.parametrize("name", [n for n in REPARAMETRIZED if n != "orthogonal"])
def test_a_masked_weight_is_not_taken_over(name):
    model = net()
    sl.sparsify(model, {"2.weight": torch.rand(8, 8) < 0.5})
    want, keys = model.eval()(X), set(model.state_dict())
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match="belongs to its mask"):
            REPARAMETRIZED[name](model[2])
        assert torch.equal(model(X), want)
        assert set(model.state_dict()) == keys
    sl.densify(model)
    torch.testing.assert_close(model(X), want)
    REPARAMETRIZED[name](model[2])  # plain again, it may be


def test_an_orthogonal_weight_after_sparsify_raises_and_all_agree():
    model = net()
    sl.sparsify(model, {"2.weight": torch.rand(8, 8) < 0.5})
    with pytest.raises(sl.SparselthError, match="belongs to its mask"):
        parametrizations.orthogonal(model[2])  # which has written to the weight by then
    want = model(X)
    torch.testing.assert_close(sl.densify(model)(X), want)


def test_removing_a_parametrization_makes_it_prunable():
    model = net()
    parametrizations.weight_norm(model[2])
    nn.utils.parametrize.remove_parametrizations(model[2], "weight")
    assert "2.weight" in sl.find_masks(model, sparsity=0.5)


def test_masks_of_torch_prune_are_taken_over():
    model = net()
    prune.l1_unstructured(model[2], "weight", 0.5)
    prune.random_unstructured(model[2], "weight", 0.5)
    prune.ln_structured(model[4], "weight", 0.4, n=2, dim=1)
    parameter, want = model[2].weight_orig, model(X)
    pruned = {f"{i}.weight": model[i].weight_mask.bool().clone() for i in (2, 4)}
    masks = sl.from_torch_prune(model)
    assert masks.keys() == pruned.keys()
    assert all(torch.equal(masks[name], pruned[name]) for name in masks)
    assert model[2].weight is parameter
    assert set(model.state_dict()) == set(net().state_dict())
    sl.sparsify(model, masks)
    torch.testing.assert_close(model(X), want)
    assert sl.sparsity(model) > 0.5


def test_what_torch_prune_has_that_we_do_not_is_refused():
    with pytest.raises(sl.SparselthError, match="no parameter of the model is pruned"):
        sl.from_torch_prune(net())
    model = net()
    prune.l1_unstructured(model[2], "weight", 0.5)
    prune.l1_unstructured(model[2], "bias", 0.5)
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=r"2\.bias: pruned, but"):
            sl.from_torch_prune(model)
        assert prune.is_pruned(model[2])


def test_sparsify_takes_the_zeros_that_are_there():
    model = net()
    prune.l1_unstructured(model[2], "weight", 0.75)
    prune.remove(model[2], "weight")
    sl.sparsify(model)
    assert set(sl.masks_of(model)) == {"2.weight"}
    assert sl.sparsity(model) == 0.75
    with pytest.raises(sl.SparselthError, match="no weight of the model has zeros"):
        sl.sparsify(net())
