"""A model that is looked at, left as it was: its modes, its buffers, and torch's random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put a model's modes and buffers, and torch's random numbers, back at the end, bit for bit.

    Modules with a `train` of their own are told, by it, which mode they were in: adapters merge
    their weights into a layer's by it.
    """
    modes = {module: module.training for module in model.modules()}
    # A forward may write to a buffer, and may put another tensor in its place.
    slots = {module: dict(module._buffers) for module in model.modules() if module._buffers}
    values = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    gpus = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(gpus)):
        try:
            yield
        finally:
            put_back(modes)
            for module, buffers in slots.items():
                module._buffers.update(buffers)
            _restore(values)


def put_back(modes: dict[nn.Module, bool]) -> None:
    """Put modules into the modes they were in, parents before what they hold."""
    for module, mode in modes.items():
        if module.training != mode and type(module).train is not nn.Module.train:
            module.train(mode)
    for module, mode in modes.items():
        module.training = mode


@torch.no_grad()
def _restore(values: dict[Tensor, Tensor]) -> None:
    for buffer, before in values.items():
        if not torch.equal(buffer, before):
            buffer.copy_(before)
