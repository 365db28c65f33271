"""A masked class called by itself has no mask, and is the plain layer."""

import copy

import pytest
import torch
from support.layers import LAYERS, masked_pair
from torch import nn

import sparselth as sl


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
