"""Networks in containers that know the order of their modules, and what runs in them at once."""

import copy

import torch
from torch import nn
from torch.autograd.graph import Node

import sparselth as sl
from sparselth.models.resnet import BasicBlock
from sparselth.nn import containers
from support.traveling_nets import conv, head, masks_for


def sparse(model):
    """Return a model so sparse that every masked layer is served by sparse kernels."""
    model = model.double()
    masks = {name: torch.rand(mask.shape) < 0.1 for name, mask in masks_for(model).items()}
    return sl.sparsify(model, masks)


def vgg():
    return nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(True), conv(8, 8, bias=True), nn.BatchNorm2d(8)),
        *(nn.ReLU6(), conv(8, 6, stride=2), nn.BatchNorm2d(6), *head(6)),
    )


def resnet():
    return nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), BasicBlock(8, 8, 1), BasicBlock(8, 12, 2)),
        *head(12),
    )


def nodes(out):
    """Return the names of the nodes that lead to a result."""
    found, left = set(), [out.grad_fn]
    while left:
        node: Node | None = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [following for following, _ in node.next_functions]
    return [node.name() for node in found]


def known(model, x):
    """Return a model whose layers have seen such an input: they look their way up from then on."""
    for inputs in (x, x.clone().requires_grad_()):
        model(inputs).sum().backward()
    model.zero_grad()
    return model


def watched(model):
    """Return a copy whose modules are called one by one."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: None)
    return twin


def counts(monkeypatch):
    """Return a list that grows with each convolution that is run with its norm."""
    calls = []
    apply = containers.ConvNorms.apply

    def counted(*args):
        calls.extend(args[3])
        return apply(*args)

    monkeypatch.setattr(containers.ConvNorms, "apply", counted, raising=False)
    return calls
