"""A layer made sparse computes as a dense one with its weight masked, and is made plain again."""

import copy
import io

import pytest
import torch
from support.layers import LAYERS, masked_pair
from torch import nn

import sparselth as sl


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
