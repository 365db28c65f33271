"""A weight that several layers share has one mask, under any of its names, or is refused."""

import copy

import pytest
import torch
from support.layers import OwnForward
from torch import nn

import sparselth as sl


def tied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    return model


def test_a_shared_weight_has_one_mask():
    model = tied()
    masks = sl.find_masks(model, score="random", sparsity=0.5, exclude=())
    assert set(masks) == {"0.weight"}
    sl.sparsify(model, masks)
    assert sl.sparsity(model) == 0.5
    assert (model[0].weight == 0).float().mean() == 0.5
    assert model[2].weight is model[0].weight
    assert model[2].weight_mask is model[0].weight_mask
    assert set(sl.masks_of(model)) == {"0.weight"}
    dense = sl.densify(copy.deepcopy(model))
    x = torch.randn(3, 8)
    model(x).sum().backward()
    dense(x).sum().backward()
    torch.testing.assert_close(model[0].weight.grad, dense[0].weight.grad * masks["0.weight"])


@pytest.mark.parametrize(
    "write",
    [
        lambda m, k: setattr(m[2], "weight_mask", k),
        lambda m, k: m[2].weight_mask.copy_(k),
        lambda m, k: sl.sparsify(m, {"2.weight": k}),
        lambda m, k: m[2].set_mask(k),
        lambda m, k: m[2].register_buffer("weight_mask", k),
    ],
)
def test_a_write_to_one_owner_of_a_shared_weight_is_seen_by_all(write):
    model, mask = tied(), torch.rand(8, 8) < 0.3
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    model(torch.randn(2, 8))
    write(model, mask)
    model(torch.randn(2, 8))
    for module in (model[0], model[2]):
        assert torch.equal(module.weight_mask, mask)
    assert not model[0].weight[~mask].any()


READERS = {
    "forward": lambda m, mask, x: (m(x), None),
    "step": lambda m, mask, x: (m(x).sum().backward(), torch.optim.SGD(m.parameters(), 0.1).step()),
    "own step": lambda m, mask, x: (
        m(x).sum().backward(),
        sl.optim.SGD(m.parameters(), 0.1).step(),
    ),
    "saved": lambda m, mask, x: m.state_dict(),
    "moved": lambda m, mask, x: m.double().float(),
    "copied": lambda m, mask, x: copy.deepcopy(m),
}


@pytest.mark.parametrize("owner", [0, 2])
@pytest.mark.parametrize("reader", READERS)
def test_a_mask_slipped_into_one_owner_of_a_shared_weight_is_that_of_all(reader, owner):
    model, mask, x = tied(), torch.rand(8, 8) < 0.3, torch.randn(2, 8)
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    weight = model[0]._parameters["weight"].detach().clone()
    model[owner]._buffers["weight_mask"] = mask
    y = nn.functional.linear(x, weight * mask, model[0].bias).relu()
    torch.testing.assert_close(model(x), nn.functional.linear(y, weight * mask, model[2].bias))
    READERS[reader](model, mask, x)
    for module in (model[0], model[2]):
        assert torch.equal(module.weight_mask, mask)
    assert torch.equal(sl.masks_of(model)["0.weight"], mask)
    assert not model[0].weight[~mask].any()
    if reader.endswith("step"):
        assert model[0].weight is model[2].weight
        assert model[0].weight_mask is model[2].weight_mask


def test_two_masks_slipped_into_owners_of_a_shared_weight_are_refused():
    model = tied()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    for i in (0, 2):
        model[i]._buffers["weight_mask"] = torch.rand(8, 8) < 0.3
    with pytest.raises(sl.SparselthError, match="two different masks were put"):
        model.state_dict()


@pytest.mark.parametrize("change", [lambda m: m.double(), copy.deepcopy, lambda m: m.to("cpu")])
def test_a_shared_weight_stays_shared(change):
    model = tied()
    masks = sl.find_masks(model, sparsity=0.5, exclude=())
    model = change(sl.sparsify(model, masks))
    assert model[0].weight is model[2].weight
    assert model[0].weight_mask is model[2].weight_mask
    assert torch.equal(model[0].weight_mask, masks["0.weight"])


def test_a_weight_replaced_in_one_owner_is_its_own_from_then_on():
    model = tied()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    mask = model[0].weight_mask.clone()
    model[2].weight = nn.Parameter(torch.ones(8, 8))
    model[2].weight_mask = torch.eye(8).bool()
    assert torch.equal(model[0].weight_mask, mask)
    assert torch.equal(model[2].weight, torch.eye(8) * mask)
    model[2].weight = model[0].weight  # and back
    assert model[2].weight_mask is model[0].weight_mask
    assert torch.equal(model[2].weight_mask, mask)


def test_two_masks_for_one_weight_are_refused():
    model = tied()
    masks = {"0.weight": torch.eye(8).bool(), "2.weight": torch.ones(8, 8).bool()}
    with pytest.raises(sl.SparselthError, match=r"'2\.weight' is '0\.weight' under another name"):
        sl.sparsify(model, masks)
    assert type(model[0]) is nn.Linear
    sl.sparsify(model, {"0.weight": masks["0.weight"], "2.weight": masks["0.weight"]})


def test_a_decoder_tied_to_an_embedding_masks_both():
    model = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12, bias=False))
    model[2].weight = model[0].weight
    masks = sl.find_masks(model, sparsity=0.5, exclude=(), include=["0.weight"])
    sl.sparsify(model, masks)
    mask = masks["0.weight"]
    model[2].weight.data.fill_(1.0)
    words = torch.tensor([3, 4])
    want = sl.densify(copy.deepcopy(model))(words)
    torch.testing.assert_close(model(words), want)
    model(words).sum().backward()
    assert not model[0].weight.grad[~mask].any()


class Table(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.table = weight


def own_forward(weight):
    layer = OwnForward(4, 4, 1)
    layer.weight = weight
    return layer


def limited(weight):
    layer = nn.Embedding(4, 4, max_norm=1.0)
    layer.weight = weight
    return layer


OTHERS = {
    "no layer": (nn.Linear, Table, r"also 'other\.table'.*it is a Table"),
    "list": (nn.Linear, lambda w: nn.ParameterList([w]), r"also 'other\.0'.*ParameterList"),
    "own forward": (lambda i, o: nn.Conv2d(i, o, 1), own_forward, "forward of its own"),
    "max_norm": (nn.Linear, limited, "max_norm rewrites"),
    "bias of a layer": (
        nn.Linear,
        lambda w: setattr(holder := nn.Linear(4, 4), "bias", w) or holder,
        r"also 'other\.bias'.*it is a Linear",
    ),
}


# Where an embedding comes first, the weight is one that is pruned on request only.
@pytest.mark.parametrize(
    ("other", "first"),
    [(o, f) for o in OTHERS for f in ("layer", "other") if (o, f) != ("max_norm", "other")],
)
def test_a_weight_shared_with_what_cannot_be_masked_is_refused_by_all_at_once(other, first):
    make, share, message = OTHERS[other]
    layer = make(4, 4)
    modules = {"layer": layer, "other": share(layer.weight)}
    model = nn.ModuleDict({first: modules.pop(first), **modules, "last": nn.Linear(4, 4)})
    mask = torch.rand_like(layer.weight) < 0.5
    if first == "other":
        message = message.replace("also 'other", ".*'?other")
    for attempt in (
        lambda: sl.sparsify(model, {"layer.weight": mask}),
        lambda: sl.find_masks(model, sparsity=0.5, exclude=()),
        lambda: sl.ADMM(model, sparsity=0.5, exclude=()),
        lambda: sl.pruning.check_search(model, sparsity=0.5, exclude=()),
    ):
        with pytest.raises(sl.SparselthError, match=message):
            attempt()
        assert type(layer) in (nn.Linear, nn.Conv2d)
    for name in ("layer.weight", *(n for n, p in model.named_parameters() if p is layer.weight)):
        masks = sl.find_masks(model, sparsity=0.5, exclude=[name])
        assert "layer.weight" not in masks
        assert "last.weight" in masks


def used_twice():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 4))


@pytest.mark.parametrize("make", [used_twice, lambda: nn.Sequential(*tied(), nn.Linear(8, 8))])
def test_a_shared_weight_has_any_of_its_names(make):
    model = make()
    mask = torch.rand_like(model[0].weight) < 0.5
    assert set(sl.find_masks(model, sparsity=0.5, exclude=["2.weight"])) == {"3.weight"}
    assert set(sl.find_masks(model, sparsity=0.5, exclude=["2.*"])) == {"3.weight"}
    shares = {"2.weight": 0.5, "3.weight": 0.25}
    found = sl.find_masks(model, sparsity=shares, allocation="given", exclude=())
    assert {name: float(1 - k.float().mean()) for name, k in found.items()} == {
        "0.weight": 0.5,
        "3.weight": 0.25,
    }
    admm = sl.ADMM(model, sparsity=shares, allocation="given", exclude=())
    assert set(admm.parameters) == {"0.weight", "3.weight"}
    with pytest.raises(sl.SparselthError, match="two different sparsities"):
        sl.find_masks(model, sparsity={"0.weight": 0.1, **shares}, allocation="given", exclude=())
    with pytest.raises(sl.SparselthError, match="two different masks"):
        sl.sparsify(model, {"0.weight": ~mask, "2.weight": mask})
    sl.sparsify(model, {"2.weight": mask})
    assert torch.equal(sl.masks_of(model)["0.weight"], mask)
    assert sl.coverage(model).covered == mask.numel()
    assert sl.coverage(model, ["2.weight"]).covered == mask.numel()
    model(torch.randn(2, len(mask)))
    assert type(sl.densify(model)[2]) is nn.Linear


def test_an_embedding_is_included_by_the_name_of_its_decoder():
    model = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12, bias=False))
    model[2].weight = model[0].weight
    assert "0.weight" in sl.find_masks(model, sparsity=0.5, exclude=(), include=["2.weight"])
