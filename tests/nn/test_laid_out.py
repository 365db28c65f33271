"""A model in channels_last trains without a copy of its weights, and to the same bits."""

import copy

import pytest
import torch
from torch import nn
from torch.profiler import profile

import sparselth as sl
from sparselth.nn.laid_out import LaidOut


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def copies_of_weights(model, optimizer):
    """Return by name what a step does to tensors of the convolutions' shapes besides computing."""
    x = torch.randn(16, 8, 12, 12).contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        step(model, optimizer, x)
    with profile(record_shapes=True) as found:
        step(model, optimizer, x)
    sizes = {tuple(m.weight.shape) for m in model if isinstance(m, nn.Conv2d)}
    return [
        (e.name, e.input_shapes)
        for e in found.events()
        if e.name in ("aten::clone", "aten::copy_", "aten::where")
        and any(tuple(shape) in sizes for shape in e.input_shapes)
    ]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("choice", ["measured", "fixed"])
def test_no_weight_is_copied_in_a_step(name, sparsity, choice):
    model, plain = net(), net().to(memory_format=torch.channels_last)
    theirs = copies_of_weights(plain, getattr(torch.optim, name)(plain.parameters(), lr=0.1))
    sl.sparsify(model, sl.find_masks(model, sparsity=sparsity))
    model.to(memory_format=torch.channels_last)
    with sl.use_choice(choice):
        ours = copies_of_weights(model, getattr(sl.optim, name)(model.parameters(), lr=0.1))
    # Torch copies gradients that its convolutions leave contiguous. So does it for the layer that
    # meets the images, whose gradient comes from an op that sees no weight.
    assert len(ours) <= max(1, len(theirs)), ours
    for module in model:
        if isinstance(module, nn.Conv2d):
            for tensor in (module.weight, module.weight.grad):
                assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_the_mask_is_laid_out_anew_when_anything_changes():
    weight = nn.Parameter(torch.randn(4, 3, 3, 3))
    mask = torch.rand(4, 3, 3, 3) < 0.5
    derived = LaidOut(mask)
    assert derived.bools(weight) is mask
    turned = nn.Parameter(weight.detach().contiguous(memory_format=torch.channels_last))
    stored = derived.bools(turned)
    assert stored.stride() == turned.stride()
    assert torch.equal(stored, mask)
    assert derived.bools(turned) is stored
    assert not derived.has_bits
    for parameter in (weight, turned, nn.Parameter(turned.detach().double())):
        bits = derived.bits(parameter)
        assert bits.stride() == parameter.stride()
        assert bits.itemsize == parameter.itemsize
        assert torch.equal(bits.bool(), mask)
    assert derived.has_bits


def test_an_edited_mask_is_what_the_next_step_keeps_to():
    model = net()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5))
    model.to(memory_format=torch.channels_last)
    optimizer = sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(4, 8, 12, 12)
    step(model, optimizer, x)
    model(x).square().mean().backward()
    model[3].weight_mask[0] = False
    optimizer.step()
    momentum = optimizer.state[model[3].weight]["momentum_buffer"]
    assert not model[3].weight[0].any()
    assert not momentum[0].any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training_is_the_same_to_the_bit_in_both_layouts(layout):
    plain = net()
    sl.sparsify(plain, sl.find_masks(plain, sparsity=0.9))
    turned = copy.deepcopy(plain).to(memory_format=layout)
    x = torch.randn(16, 8, 12, 12)
    with sl.use_choice("fixed"):
        for model in (plain, turned):
            optimizer = sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
            for _ in range(3):
                step(model, optimizer, x)
    for a, b in zip(plain.parameters(), turned.parameters(), strict=True):
        assert torch.equal(a, b)
