"""load_sparse: every form that a sparse network is saved in, into every form of a model."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import sparselth as sl
from sparselth.nn import LaneBatchNorm2d, MaskedModule


def net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Linear(8, 4),
    )


def sparse(seed=1, sparsity=0.9, exclude=None):
    torch.manual_seed(seed)
    model = net()
    return sl.sparsify(model, sl.find_masks(model, sparsity=sparsity, exclude=exclude))


X = torch.randn(4, 3, 5, 5)


def as_sparse(model):
    return model.state_dict()


def as_dense(model):
    return sl.densify(copy.deepcopy(model)).state_dict()


def as_torch_prune(model):
    plain = sl.densify(copy.deepcopy(model))
    for name, mask in sl.masks_of(model).items():
        module = plain.get_submodule(name.removesuffix(".weight"))
        with torch.no_grad():
            module.weight.add_(mask.logical_not())  # what torch keeps beneath its masks
        prune.custom_from_mask(module, "weight", mask)
    return plain.state_dict()


@pytest.mark.parametrize("form", [as_sparse, as_dense, as_torch_prune])
@pytest.mark.parametrize(
    "into", [net, sparse, lambda: sparse(3, 0.5, ())], ids=["plain", "sparse", "other masks"]
)
def test_the_network_is_the_one_that_was_saved(form, into):
    saved = sparse(seed=2).eval()
    state, before = form(saved), into()
    parameters = dict(before.named_parameters())
    loaded = sl.load_sparse(before, state).eval()
    assert loaded is before
    assert dict(loaded.named_parameters()).keys() == parameters.keys()
    assert all(p is parameters[name] for name, p in loaded.named_parameters())
    masks, wanted = sl.masks_of(loaded), sl.masks_of(saved)
    assert masks.keys() == wanted.keys()
    assert all(torch.equal(masks[name], wanted[name]) for name in masks)
    assert torch.equal(loaded(X), saved(X))
    assert isinstance(loaded[1], LaneBatchNorm2d)
    plain = [name for name, m in loaded.named_modules() if not isinstance(m, MaskedModule)]
    assert "0" in plain  # what has no mask in the state has none now
    optimizer = sl.optim.SGD(loaded.parameters(), lr=0.1)
    loaded(X).square().mean().backward()
    optimizer.step()
    for name, mask in wanted.items():
        assert not loaded.get_parameter(name)[~mask].any()


def test_from_a_file(tmp_path):
    saved = sparse(seed=2).eval()
    path = tmp_path / "net.safetensors"
    save_file(saved.state_dict(), path)
    for where in (path, str(path)):
        assert torch.equal(sl.load_sparse(net(), where).eval()(X), saved(X))
    (tmp_path / "half.safetensors").write_bytes(path.read_bytes()[:100])
    for name, message in (
        ("half.safetensors", "cannot be read as safetensors"),
        ("none.safetensors", "cannot be read as safetensors"),
        ("net.pt", "got .*net.pt'; of a pickled file, pass"),
    ):
        with pytest.raises(sl.SparselthError, match=message):
            sl.load_sparse(net(), tmp_path / name)


def test_attention_and_shared_weights():
    def build():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        layer.linear3 = nn.Linear(8, 16)
        layer.linear3.weight = layer.linear1.weight
        return layer

    saved = build()
    sl.sparsify(saved, sl.find_masks(saved, sparsity=0.5, exclude=()))
    loaded = sl.load_sparse(build(), saved.state_dict())
    assert sl.masks_of(loaded).keys() == sl.masks_of(saved).keys()
    x = torch.randn(2, 3, 8)
    assert torch.equal(loaded.eval()(x), saved.eval()(x))
    assert loaded.linear3.weight is loaded.linear1.weight


def test_another_head():
    saved, model = sparse(seed=2), net()
    model[6] = nn.Linear(8, 7)
    state = {name: v for name, v in saved.state_dict().items() if not name.startswith("6.")}
    head = model[6].weight.clone()
    with pytest.raises(sl.SparselthError, match=r"it lacks '6.bias', '6.weight'\. strict=False"):
        sl.load_sparse(model, state)
    sl.load_sparse(model, {**state, "7.weight": torch.ones(1)}, strict=False)
    assert torch.equal(model[6].weight, head)
    assert sl.masks_of(model).keys() == sl.masks_of(saved).keys()


def test_a_dense_state_into_a_sparse_model_keeps_its_masks():
    model, dense = sparse(), net()
    masks = sl.masks_of(model)
    model.load_state_dict(dense.state_dict())
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name), dense.get_parameter(name) * mask)


def other(name, value):
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: None, "state must be a mapping of parameter names to tensors; got NoneType"),
        (
            lambda state: {"model": state},
            "it lacks '0.bias', .* and more; the model has no 'model'",
        ),
        (lambda state: net().state_dict(), "no masks, and no layer's weight in it has zeros"),
        (other("3.weight_mask", torch.ones(2)), r"'3.weight_mask' of the state has shape \(2,\)"),
        (other("3.weight_mask", torch.full((16, 16, 3, 3), 2)), "of 0 and 1; got other values"),
        (other("3.weight_mask", "all"), "'3.weight_mask' of the state must be a mask.*got str"),
        (other("3.bias", torch.ones(2)), r"'3.bias' has shape \(16,\) in the model, \(2,\) in"),
        (other("3.bias_mask", torch.ones(16)), "bias"),
        (other("5.bias", None), r"'5.bias' has shape \(8,\) in the model, NoneType in the state"),
    ],
)
@pytest.mark.parametrize("into", [net, sparse], ids=["plain", "sparse"])
def test_a_state_that_does_not_fit_leaves_the_model_as_it_was(change, message, into):
    model, state = into(), sparse(seed=2).state_dict()
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=message):
            sl.load_sparse(model, change(state))
        after = model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
