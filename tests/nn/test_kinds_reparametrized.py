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


@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_a_masked_weight_is_not_taken_over(name):
    model = net()
    sl.sparsify(model, {"2.weight": torch.rand(8, 8) < 0.5})
    want, state = model.eval()(X), {k: v.clone() for k, v in model.state_dict().items()}
    parameters = list(model.named_parameters())
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match="belongs to its mask"):
            REPARAMETRIZED[name](model[2])
        assert [(n, id(p)) for n, p in model.named_parameters()] == [
            (n, id(p)) for n, p in parameters
        ]
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert torch.equal(model(X), want)
        assert not model[2]._forward_pre_hooks
    sl.densify(model)
    torch.testing.assert_close(model(X), want)
    REPARAMETRIZED[name](model[2])  # plain again, it may be


class Doubled(nn.Module):
    """Writes to what it stands for as soon as it is registered, as orthogonal ones do."""

    def forward(self, x):
        return x * 2

    def right_inverse(self, x):
        return x / 2


class Flipped(nn.Module):
    def forward(self, x):
        return ~x

    right_inverse = forward


@pytest.mark.parametrize(
    ("slot", "made"), [("in_proj_weight", Doubled), ("in_proj_weight_mask", Flipped)]
)
@pytest.mark.parametrize("unsafe", [False, True])
def test_no_slot_of_a_mask_is_parametrized(slot, made, unsafe):
    attention = nn.MultiheadAttention(8, 2)
    mask = torch.rand(24, 8) < 0.5
    sl.sparsify(attention, {"in_proj_weight": mask})
    state = {k: v.clone() for k, v in attention.state_dict().items()}
    with pytest.raises(sl.SparselthError, match="belongs to its mask"):
        nn.utils.parametrize.register_parametrization(attention, slot, made(), unsafe=unsafe)
    assert list(attention.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in attention.state_dict().items())
    nn.utils.parametrize.register_parametrization(attention, "in_proj_bias", Doubled())
    assert torch.equal(sl.masks_of(attention)["in_proj_weight"], mask)


@pytest.mark.parametrize("kdim", [None, 6])
def test_an_older_norm_that_is_refused_leaves_parameters_in_their_order(kdim):
    attention = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=kdim)
    name = "in_proj_weight" if kdim is None else "k_proj_weight"
    sl.sparsify(attention, {name: torch.rand_like(attention.get_parameter(name)) < 0.5})
    attention.register_parameter("added", nn.Parameter(torch.ones(2)))
    want = [n for n, _ in attention.named_parameters()]
    with pytest.raises(sl.SparselthError, match="belongs to its mask"):
        weight_norm(attention, name)
    assert [n for n, _ in attention.named_parameters()] == want


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
