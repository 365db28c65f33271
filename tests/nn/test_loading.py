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
KERNELS = torch.ones(16, 16, 3, 3)


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
    with pytest.raises(sl.SparselthError, match=r"Missing key.*6.weight.*strict=False leaves"):
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
            "no name in common; 'model' in it is a mapping: pass that",
        ),
        (lambda state: net().state_dict(), "no masks, and no layer's weight in it has zeros"),
        (other("3.weight_mask", torch.ones(2)), r"'3.weight_mask' of the state has shape \(2,\)"),
        (other("3.weight_mask", 2 * KERNELS), "of 0 and 1; got other values"),
        (other("3.weight_mask", "all"), "'3.weight_mask' of the state must be a mask.*got str"),
        (
            other("3.bias", torch.ones(2)),
            "does not load into a Sequential: size mismatch for 3.bias",
        ),
        (
            other("3.bias_mask", torch.ones(16)),
            "'3.bias' cannot have a mask: masks go on the weights",
        ),
        (other("3.bias", torch.ones(16, device="meta")), "3.bias"),
        (
            other("3.weight", torch.ones(16, 16, 3, 3, device="meta")),
            "3.weight' of the state must be",
        ),
        (
            other("3.weight_mask", torch.ones(16, 16, 3, 3).to_sparse()),
            "must be an ordinary tensor",
        ),
        (other("3.bias", torch.ones(16).to_sparse()), "does not load into"),
        (other("5.bias", None), "5.bias.* but received <class 'NoneType'>"),
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


class Versioned(nn.Linear):
    """A layer whose second version keeps its weight twice as large as the first."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version", 1) < 2:
            state[f"{prefix}weight"] = state[f"{prefix}weight"] * 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_versions_of_modules_are_handed_on(tmp_path):
    saved = nn.Sequential(Versioned(8, 8), nn.Linear(8, 2))
    sl.sparsify(saved, sl.find_masks(saved, sparsity=0.5))
    for state in (saved.state_dict(), dict(saved.state_dict())):  # a file has no versions
        loaded = sl.load_sparse(nn.Sequential(Versioned(8, 8), nn.Linear(8, 2)), state)
        assert torch.equal(loaded[0].weight, saved[0].weight)
    old = saved.state_dict()
    old._metadata["0"]["version"] = 1
    loaded = sl.load_sparse(nn.Sequential(Versioned(8, 8), nn.Linear(8, 2)), old)
    assert torch.equal(loaded[0].weight, 2 * saved[0].weight)


def test_a_wrapped_models_state_is_told_from_one_that_fits():
    saved, model = sparse(seed=2), sparse()
    masks = sl.masks_of(model)
    for prefix in ("module.", "_orig_mod."):
        state = {prefix + name: value for name, value in saved.state_dict().items()}
        for strict in (True, False):
            with pytest.raises(sl.SparselthError, match=f"no name in common; .*{prefix}.*remove"):
                sl.load_sparse(model, state, strict=strict)
    assert all(torch.equal(mask, masks[name]) for name, mask in sl.masks_of(model).items())
    state = {n: v for n, v in saved.state_dict().items() if not n.startswith(("3.", "5."))}
    state["9.weight"], state["9.weight_mask"] = torch.ones(4, 4), torch.ones(4, 4).tril()
    with pytest.raises(sl.SparselthError, match="no mask of the state is of a weight"):
        sl.load_sparse(model, state, strict=False)


def test_one_name_of_a_shared_weight_is_enough():
    def build():
        model = net()
        model[5], model[6] = nn.Linear(16, 8), nn.Linear(16, 8)
        model[6].weight = model[5].weight
        return model

    saved = build()
    sl.sparsify(saved, sl.find_masks(saved, sparsity=0.5, exclude=()))
    for state in (saved.state_dict(), as_dense(saved)):
        for lost in ("5.", "6."):
            names = (f"{lost}weight", f"{lost}weight_mask")
            some = {name: value for name, value in state.items() if name not in names}
            loaded = sl.load_sparse(build(), some)
            assert torch.equal(loaded[5].weight, saved[5].weight)
            assert loaded[5].weight is loaded[6].weight
            assert sl.masks_of(loaded).keys() == sl.masks_of(saved).keys()


def test_a_buffer_that_is_called_like_a_mask_is_none():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.Parameter(torch.randn(4, 4))
            self.register_buffer("attn_mask", torch.full((4, 4), float("-inf")).triu(1))
            self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 2)

    saved = Attending()
    sl.sparsify(saved, sl.find_masks(saved, sparsity=0.5))
    loaded = sl.load_sparse(Attending(), saved.state_dict())
    assert torch.equal(loaded.attn, saved.attn)
    assert torch.equal(loaded.attn_mask, saved.attn_mask)
    assert torch.equal(loaded.inner.weight, saved.inner.weight)


def test_zeros_that_nobody_pruned():
    model = nn.ModuleDict({"words": nn.Embedding(9, 4, padding_idx=0), "a": nn.Linear(4, 4)})
    with pytest.raises(sl.SparselthError, match="no layer's weight in it has zeros"):
        sl.load_sparse(model, model.state_dict())
    with pytest.raises(sl.SparselthError, match="no weight of the model has zeros"):
        sl.sparsify(model)
    with torch.no_grad():
        model["a"].weight[0] = 0
    twin = nn.ModuleDict({**model, "b": nn.Linear(4, 4)})
    nn.init.zeros_(twin["b"].weight)
    with pytest.warns(UserWarning, match="^b.weight: all zero, left without a mask") as caught:
        sl.sparsify(twin)
    assert set(sl.masks_of(twin)) == {"a.weight"}
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.to("meta"), "'0.weight' has no values: call model.to_empty"),
        (lambda model: model.append(nn.LazyLinear(3)), "'7.weight' has no shape yet"),
        (
            lambda model: prune.l1_unstructured(model[6], "weight", 0.5),
            r"pruned by torch.nn.utils.prune \('6.weight_orig'\); take its masks over",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_into(spoil, message):
    model, state = net(), sparse(seed=2).state_dict()
    spoil(model)
    for strict in (True, False):
        with pytest.raises(sl.SparselthError, match=message):
            sl.load_sparse(model, state, strict=strict)


def test_a_model_made_in_inference_mode_cannot_be_loaded_into():
    with torch.inference_mode():
        model = net()
    with pytest.raises(sl.SparselthError, match="made in inference mode"):
        sl.load_sparse(model, sparse(seed=2).state_dict())
