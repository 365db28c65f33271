"""Which layers masks go on, and that each computes as a dense one with its weight masked."""

import copy
import io

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.nn.kinds import sites_of

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2), (2, 4, 9)),
    "conv1d, circular": (
        lambda: nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular", groups=2),
        (2, 4, 9),
    ),
    "conv2d, 1x1": (lambda: nn.Conv2d(4, 6, 1), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, (1, 3, 2), padding=1), (2, 4, 3, 5, 4)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 5)),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, output_padding=1, stride=2),
        (2, 4, 5, 5),
    ),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 2, groups=2), (2, 4, 3, 3, 3)),
}


def masked_pair(make, keep=0.4):
    torch.manual_seed(0)
    model = nn.Sequential(make())
    dense = copy.deepcopy(model)
    mask = torch.rand_like(model[0].weight) < keep
    with torch.no_grad():
        dense[0].weight.mul_(mask)
    return sl.sparsify(model, {"0.weight": mask}), dense, mask


@pytest.mark.parametrize("choice", sl.ops.kernel_choice.decide.MODES)
@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_computes_what_its_masked_twin_does(layer, unbatched, choice):
    make, shape = LAYERS[layer]
    model, dense, mask = masked_pair(make)
    x = torch.randn(shape[1:] if unbatched else shape)
    results = []
    with sl.use_choice(choice):
        for net in (model, dense):
            z = x.clone().requires_grad_()
            y = net[0](input=z)  # as torch's layers call it
            y.square().sum().backward()
            grad = net[0].weight.grad
            results.append((y, z.grad, grad if net is model else grad * mask, net[0].bias.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_copied_saved_and_made_plain(layer):
    make, shape = LAYERS[layer]
    model, dense, mask = masked_pair(make)
    x = torch.randn(shape)
    want = model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for twin in (copy.deepcopy(model), loaded):
        assert torch.equal(twin(x), want)
        assert torch.equal(sl.masks_of(twin)["0.weight"], mask)
        assert type(twin[0]) is type(model[0])
    assert isinstance(model[0], type(dense[0]))
    sl.densify(model)
    assert type(model[0]) is type(dense[0])
    assert model.state_dict().keys() == dense.state_dict().keys()
    torch.testing.assert_close(model(x), dense(x))


class PlainSubclass(nn.Linear):
    """What a library adds to a layer without touching its forward."""

    def double_width(self):
        return 2 * self.out_features


class OwnForward(nn.Conv2d):
    def forward(self, x):
        return super().forward(x * 2)


def test_a_subclass_with_the_plain_forward_keeps_what_it_adds():
    layer = PlainSubclass(6, 4)
    sl.sparsify(layer, {"weight": torch.rand(4, 6) < 0.5})
    assert isinstance(layer, PlainSubclass)
    assert isinstance(layer, sl.MaskedLinear)
    assert layer.double_width() == 8
    twin = copy.deepcopy(layer)
    assert type(twin) is type(layer)
    sl.densify(layer)
    assert type(layer) is PlainSubclass
    torch.testing.assert_close(layer(torch.ones(2, 6)), twin(torch.ones(2, 6)))


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


@pytest.mark.parametrize("kdim", [None, 6])
def test_attention_is_masked_in_all_its_projections(kdim):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True, kdim=kdim, vdim=kdim)
    dense = copy.deepcopy(attention)
    masks = sl.find_masks(attention, sparsity=0.6, exclude=())
    packed = {"in_proj_weight"} if kdim is None else {f"{n}_proj_weight" for n in "qkv"}
    assert set(masks) == {*packed, "out_proj.weight"}
    sl.sparsify(attention, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            dense.get_parameter(name).mul_(mask)
    query, key = torch.randn(2, 5, 8), torch.randn(2, 7, kdim or 8)
    got, want = (net(query, key, key, need_weights=False)[0] for net in (attention, dense))
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    want.square().sum().backward()
    for name, mask in masks.items():
        torch.testing.assert_close(
            attention.get_parameter(name).grad, dense.get_parameter(name).grad * mask
        )
    attention.eval()
    dense.eval()
    with torch.no_grad():  # torch's fast path reads the weights past the modules
        torch.testing.assert_close(attention(query, key, key)[0], dense(query, key, key)[0])
    twin = copy.deepcopy(attention)
    sl.densify(attention)
    assert type(attention) is nn.MultiheadAttention
    torch.testing.assert_close(attention(query, key, key)[0], twin(query, key, key)[0])


@pytest.mark.parametrize("write", [lambda w: None, lambda w: w.data.fill_(1.0)])
def test_a_transformer_layer_reads_masked_weights_on_its_fast_path(write):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 4)
    )
    masks = sl.find_masks(model, sparsity=0.8)
    assert "1.self_attn.out_proj.weight" in masks
    sl.sparsify(model, masks)
    for name in masks:
        write(model.get_parameter(name))
    model.eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        fast = model(x)
    torch.testing.assert_close(fast, model(x).detach())
    torch.testing.assert_close(fast, sl.densify(model)(x).detach(), atol=1e-4, rtol=1e-4)


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


# --- a masked class without a mask ---------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_a_masked_class_without_a_mask_is_the_plain_layer(layer):
    make, shape = LAYERS[layer]
    model, dense, _ = masked_pair(make)
    plain, x = type(dense[0]), torch.randn(shape)
    sizes = (dense[0].weight.shape[1], dense[0].weight.shape[0])
    if plain is not nn.Linear:
        sizes = (dense[0].in_channels // dense[0].groups, dense[0].out_channels, 2)
    made, twin = type(model[0])(*sizes), plain(*sizes)
    x = torch.randn(2, sizes[0], *([4] * (len(shape) - 2)))
    twin.load_state_dict(made.state_dict())
    assert repr(made) == repr(twin).replace(plain.__name__, type(made).__name__)
    want = twin(x)
    program = torch.compile(made, backend="aot_eager")
    for one in (made, made.double().float(), copy.deepcopy(made), program):
        torch.testing.assert_close(one(x), want, atol=1e-5, rtol=1e-4)
    torch.compiler.reset()
    made.load_state_dict(twin.state_dict())
    made.weight = nn.Parameter(made.weight.detach() + 1)
    made(x).sum().backward()
    assert made.weight.grad is not None
    assert not sl.masks_of(made)
    assert "weight_mask" not in dict(made.named_buffers())
    assert not hasattr(made, "weight_mask")
    with torch.no_grad():
        sl.profile(nn.Sequential(made), x)
    sl.sparsify(made, sl.find_masks(made, sparsity=0.5, exclude=()))
    assert sl.sparsity(made) == pytest.approx(0.5, abs=0.05)
    assert type(sl.densify(made)) is plain


def test_attention_of_the_masked_class_without_masks_is_plain():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    sl.sparsify(attention, {"in_proj_weight": torch.rand(24, 8) < 0.5})
    made, twin = (
        type(attention)(8, 2, batch_first=True),
        nn.MultiheadAttention(8, 2, batch_first=True),
    )
    twin.load_state_dict(made.state_dict())
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(made(x, x, x)[0], twin(x, x, x)[0])


def test_a_model_with_a_layer_of_a_masked_class_is_made_sparse_around_it():
    model = nn.Sequential(sl.MaskedLinear(4, 4), nn.Linear(4, 4))
    sl.sparsify(model, {"1.weight": torch.eye(4).bool()})
    model(torch.randn(2, 4))
    assert list(sl.masks_of(model)) == ["1.weight"]
    sl.nn.adopt_choices(model, sl.nn.measured_choices(model))
    with pytest.raises(sl.SparselthError, match="has no mask"):
        model[0].choice(torch.randn(2, 4))
    assert [type(layer) for layer in sl.densify(model)] == [nn.Linear, nn.Linear]


# --- shared weights ---------------------------------------------------------------------------


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


# --- what is covered --------------------------------------------------------------------------


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.up = nn.Parameter(torch.randn(4, 8, 8))
        self.memory = nn.LSTM(8, 8)
        self.out = nn.Linear(8, 8)


def test_find_masks_and_sparsify_say_what_is_covered_and_what_is_left_out(caplog):
    with pytest.warns(UserWarning, match="left out") as said:
        masks = sl.find_masks(Experts(), sparsity=0.5, exclude=())
    (warning,) = said
    assert "cover 96 of 864 weights (11.1%)" in str(warning.message)
    assert "up (a parameter of Experts" in str(warning.message)
    assert "memory.weight_ih_l0" in str(warning.message)
    assert warning.filename == __file__
    with caplog.at_level("INFO", logger="sparselth"):
        model = sl.sparsify(Experts(), masks)
    assert "masks cover 96 of 864 weights (11.1%); left out: up" in caplog.text
    found = sl.coverage(model)
    assert (found.covered, found.total) == (96, 864)
    assert found.share == pytest.approx(1 / 9)


def test_layers_left_out_on_purpose_are_no_gap(recwarn):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    masks = sl.find_masks(model)
    assert not recwarn
    assert "0.weight (excluded)" in str(sl.coverage(model, masks))


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
