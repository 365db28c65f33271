"""Which layers masks go on: what is refused, what is on request, and what is asked by name."""

import copy

import pytest
import torch
from support.layers import LAYERS, OwnForward
from torch import nn

import sparselth as sl
from sparselth.nn.kinds import sites_of


def test_a_subclass_with_a_forward_of_its_own_is_refused_by_both_at_once():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), OwnForward(4, 4, 3), nn.Conv2d(4, 4, 3))
    message = r"1\.weight.*OwnForward has a forward of its own"
    with pytest.raises(
        sl.SparselthError, match=message + r".*exclude=\['0\.weight', '1\.weight'\]"
    ):
        sl.find_masks(model, sparsity=0.5)
    with pytest.raises(sl.SparselthError, match=message):
        sl.sparsify(model, {"1.weight": torch.ones(4, 4, 3, 3).bool()})
    masks = sl.find_masks(model, sparsity=0.5, exclude=["0.weight", "1.weight"])
    assert set(masks) == {"2.weight"}


def test_embeddings_are_masked_on_request():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.warns(UserWarning, match=r"cover 16 of 68 weights.*0\.weight \(on request"):
        assert set(sl.find_masks(model)) == {"1.weight"}
    masks = sl.find_masks(model, sparsity=0.5, include=["0.weight"])
    assert set(masks) == {"0.weight", "1.weight"}
    dense = copy.deepcopy(model)
    sl.sparsify(model, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            dense.get_parameter(name).mul_(mask)
    words = torch.tensor([[1, 2, 9]])
    torch.testing.assert_close(model(words), dense(words))
    model(words).sum().backward()
    assert not model[0].weight.grad[~masks["0.weight"]].any()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(3, 3, dtype=torch.complex64), "real floating-point weights, not on .*complex64"),
        (nn.LazyLinear(3), "no shape before the model's first forward"),
        (nn.Embedding(4, 2, sparse=True), "sparse=False"),
        (nn.Embedding(4, 2, max_norm=1.0), "max_norm"),
    ],
)
def test_what_cannot_have_a_mask_says_why(layer, message):
    model = nn.Sequential(layer)
    include = ["0.weight"] if isinstance(layer, nn.Embedding) else ()
    with pytest.raises(sl.SparselthError, match=message):
        sl.find_masks(model, exclude=(), include=include)
    with pytest.raises(sl.SparselthError, match=message):
        sl.sparsify(model, {"0.weight": torch.ones(1).bool()})


def test_find_masks_and_sparsify_have_one_predicate():
    for make, _ in LAYERS.values():
        model = nn.Sequential(make())
        masks = sl.find_masks(model, sparsity=0.5, exclude=())
        assert set(masks) == {n for n, site in sites_of(model).items() if not site.refusal}
        sl.sparsify(model, masks)


@pytest.mark.parametrize("pattern", ["filter", "channel", "4x1"])
def test_patterns_see_transposed_weights_turned(pattern):
    torch.manual_seed(0)
    layer, plain = nn.ConvTranspose2d(4, 8, 3), nn.Conv2d(4, 8, 3)
    with torch.no_grad():
        plain.weight.copy_(layer.weight.transpose(0, 1))
    (mask,) = sl.find_masks(layer, sparsity=0.5, pattern=pattern, exclude=()).values()
    (want,) = sl.find_masks(plain, sparsity=0.5, pattern=pattern, exclude=()).values()
    assert torch.equal(mask.transpose(0, 1), want)


def test_mixed_dtypes_and_patterns_of_names():
    model = nn.Sequential(nn.Linear(8, 8).half(), nn.Linear(8, 8), nn.Linear(8, 8).double())
    for allocation in ("uniform", "global", "erk"):
        masks = sl.find_masks(model, sparsity=0.5, allocation=allocation, exclude=())
        assert sum(int(mask.sum()) for mask in masks.values()) == 96
        assert [mask.dtype for mask in masks.values()] == [torch.bool] * 3
    assert set(sl.find_masks(model, exclude=["[02].*"])) == {"1.weight"}
    with pytest.raises(sl.SparselthError, match=r"exclude names \['7\.\*'\]"):
        sl.find_masks(model, exclude=["7.*"])
    with pytest.raises(sl.SparselthError, match="list of names"):
        sl.find_masks(model, exclude="0.weight")


def test_the_classifier_is_the_last_linear_layer_also_where_it_shares_its_weight():
    model = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12, bias=False))
    assert sl.pruning.first_and_last(model) == (None, "2.weight")
    model[2].weight = model[0].weight
    assert sl.pruning.first_and_last(model) == (None, "0.weight")
    assert set(sl.find_masks(model, sparsity=0.5)) == {"1.weight"}
