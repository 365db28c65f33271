"""Whoever looks between the modules of a container sees them called one by one."""

import pytest
import torch
from support.contained_nets import counts, known, resnet, sparse, vgg, watched
from support.traveling_nets import assert_same_step, images
from torch import nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


WATCHES = {
    "forward hook": lambda m: m.register_forward_hook(lambda *_: None),
    "pre hook": lambda m: m.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda m: m.register_full_backward_hook(lambda *_: None),
    "replaced forward": lambda m: setattr(m, "forward", m.forward),
}


@pytest.mark.parametrize("place", [0, 1, 2], ids=["conv", "norm", "relu"])
@pytest.mark.parametrize("watch", WATCHES)
def test_whoever_watches_a_module_sees_it_called(watch, place, monkeypatch):
    x = images(3)
    model = known(sparse(vgg()), x)
    calls = counts(monkeypatch)
    model(x)
    before = len(calls)
    WATCHES[watch](model[3 + place])
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # full backward hooks return views
    calls.clear()
    model(x)
    # What a full backward hook returns is plain, and meets the next layer for the first time.
    assert len(calls) == before - 1 or (watch == "backward hook" and len(calls) < before)


def test_a_hook_on_every_module_sees_them_called(monkeypatch):
    x = images(3)
    model = known(sparse(vgg()), x)
    calls = counts(monkeypatch)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        model(x)
    finally:
        handle.remove()
    assert not calls
    model(x)
    assert calls


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_from_the_first_step_on(use_reentrant):
    model = sparse(resnet())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the recomputation updates the statistics again
    for _ in range(2):
        assert_same_step(
            model, images(3), lambda model, x: checkpoint(model, x, use_reentrant=use_reentrant)
        )


def test_an_activation_in_between_has_its_gradient():
    """What a user holds of a block's input and result are tensors like any other."""
    x = images(3)
    model = known(sparse(resnet()), x)
    twin = watched(model)
    results = []
    for each in (model, twin):
        held = []
        for module in each[3:5]:
            module.register_forward_hook(
                lambda module, inputs, output, held=held: held.append(output)
            )
        out = each(x)
        for t in held:
            t.retain_grad()
        (out.sum() + held[0].square().sum()).backward()
        results.append([t.grad + 0 for t in held])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
