"""sparsify, densify and the masked modules: what users of PyTorch expect keeps working."""

import copy
import io

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.ops.parameter_masks import bound_to


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.Linear(12, 10),
    )


def sparse_net(sparsity=0.9):
    model = small_net()
    masks = sl.find_masks(model, sparsity=sparsity)
    return sl.sparsify(model, masks), masks


X = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def test_sparsify_computes_what_the_masked_dense_model_computes():
    model = small_net()
    dense = copy.deepcopy(model)
    masks = sl.find_masks(model, sparsity=0.9)
    sl.sparsify(model, masks)
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if name in masks:
                parameter.mul_(masks[name])
    torch.testing.assert_close(model(X), dense(X))
    assert set(masks) == {"2.weight", "6.weight"}
    assert isinstance(model[2], sl.MaskedConv2d)
    assert isinstance(model[6], sl.MaskedLinear)
    assert type(model[0]) is nn.Conv2d
    assert type(model[7]) is nn.Linear


def test_parameters_and_modules_stay_the_same_objects():
    model = small_net()
    before = [*model.parameters(), *model.modules()]
    sl.sparsify(model, sl.find_masks(model))
    after = [*model.parameters(), *model.modules()]
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_a_model_that_is_one_layer():
    conv = nn.Conv2d(4, 4, 3)
    mask = torch.rand_like(conv.weight) < 0.5
    sl.sparsify(conv, {"weight": mask})
    assert isinstance(conv, sl.MaskedConv2d)
    assert torch.equal(sl.masks_of(conv)["weight"], mask)


def test_densify_leaves_a_plain_model_with_zeros():
    model, masks = sparse_net()
    want = model(X)
    sl.densify(model)
    assert set(model.state_dict()) == set(small_net().state_dict())
    assert type(model[2]) is nn.Conv2d
    assert type(model[6]) is nn.Linear
    assert not model[2].weight[~masks["2.weight"]].any()
    assert bound_to(model[2].weight) is None
    torch.testing.assert_close(model(X), want)


def test_state_dict_round_trip_and_key_names():
    model, masks = sparse_net()
    state = model.state_dict()
    assert set(state) - set(small_net().state_dict()) == {"2.weight_mask", "6.weight_mask"}
    other, _ = sparse_net(sparsity=0.5)
    other.load_state_dict(state)
    assert torch.equal(other[2].weight_mask, masks["2.weight"])
    assert torch.equal(bound_to(other[2].weight).mask, masks["2.weight"])
    torch.testing.assert_close(other(X), model(X))


def test_a_dense_checkpoint_loads_and_the_mask_stays():
    model, masks = sparse_net()
    model.load_state_dict(small_net().state_dict())
    assert torch.equal(model[2].weight_mask, masks["2.weight"])
    assert not model[2].weight[~masks["2.weight"]].any()


def test_deepcopy_is_independent_and_bound():
    model, _ = sparse_net()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X))
    assert bound_to(twin[2].weight).mask is twin[2].weight_mask
    assert twin[2].weight_mask is not model[2].weight_mask
    twin[2].set_mask(torch.zeros_like(twin[2].weight_mask))
    assert model[2].weight_mask.any()


def test_torch_save_round_trip():
    model, _ = sparse_net()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded(X), model(X))
    assert bound_to(loaded[2].weight).mask is loaded[2].weight_mask


def test_a_mask_edited_in_place_is_noticed():
    model, _ = sparse_net()
    model[2].weight_mask.zero_()
    assert not model[2](torch.randn(1, 8, 4, 4)).any()
    assert model[2].sparsity == 1.0


def test_sparsify_again_replaces_masks():
    model, _ = sparse_net(0.5)
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9))
    assert sl.sparsity(model) == pytest.approx(0.9, abs=0.01)


def test_dtype_and_meta_moves():
    model, _ = sparse_net()
    y = model.double()(X.double())
    assert y.dtype == torch.float64
    assert model[2].weight_mask.dtype == torch.bool
    assert model.to("meta")[2].weight.is_meta


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": "same", "kernel_size": 4, "dilation": 2},
        {"groups": 4, "stride": (2, 1)},
    ],
)
@pytest.mark.parametrize("sparsity", [0.2, 0.95])
def test_every_option_of_conv2d(options, sparsity):
    conv = nn.Conv2d(8, 8, **{"kernel_size": 3, **options})
    dense = copy.deepcopy(conv)
    mask = torch.rand_like(conv.weight) > sparsity
    sl.sparsify(conv, {"weight": mask})
    with torch.no_grad():
        dense.weight.mul_(mask)
    x = torch.randn(2, 8, 11, 13)
    torch.testing.assert_close(conv(x), dense(x))
    torch.testing.assert_close(conv(x[0]), dense(x[0]))


def test_gradients_are_zero_off_the_mask():
    model, masks = sparse_net()
    model(X).square().sum().backward()
    for name, mask in masks.items():
        grad = model.get_parameter(name).grad
        assert not grad[~mask].any()
        assert grad[mask].any()


def test_torch_compile():
    model, _ = sparse_net(0.95)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), model(X))
    compiled(X).sum().backward()
    want = copy.deepcopy(model)
    want.zero_grad()
    want(X).sum().backward()
    torch.testing.assert_close(model[2].weight.grad, want[2].weight.grad)


def test_auto_choice_is_dense_for_full_masks_and_forceable():
    conv = nn.Conv2d(8, 8, 3)
    sl.sparsify(conv, {"weight": torch.ones_like(conv.weight, dtype=torch.bool)})
    x = torch.randn(2, 8, 6, 6)
    with sl.use_backend("reference"):
        want = conv(x)
    torch.testing.assert_close(conv(x), want)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"5.bias": None}, "no convolution or linear weight named '5.bias'"),
        ({"nope.weight": None}, "no convolution or linear weight named 'nope.weight'"),
        (
            {"1.weight": None},
            "'1.weight' belongs to a ReLU; masks go on the weight of: Conv2d, Linear",
        ),
        ({"2.weight": torch.ones(3)}, "the mask of '2.weight' must be bool, got torch.float32"),
        ({"2.weight": torch.ones(3).bool()}, r"has shape \(3,\), its weight \(16, 8, 3, 3\)"),
    ],
)
def test_bad_masks_leave_the_model_untouched(masks, message):
    model = small_net()
    good = {"6.weight": torch.ones_like(model[6].weight, dtype=torch.bool)}
    with pytest.raises(ValueError, match=message):
        sl.sparsify(model, {**good, **masks})
    assert type(model[6]) is nn.Linear
