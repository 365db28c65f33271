"""Channels that go together, and taking some of them out of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .tensors import layer_of

Places = dict[str, list[list[int]]]
"""Parameter name -> for each channel, which places along an axis of the parameter it is."""

# What has a value per channel and treats each by itself: removing one changes no other.
BY_CHANNEL = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)


@dataclass(frozen=True)
class Coupled:
    """The channels of one layer's output, or of several that are added, which only go together.

    count: of channels.
    producers: the weights whose outputs they are.  hands_on: those of depthwise convolutions
    between.  consumers: the weights whose inputs they are.
    fixed: why they cannot be removed; empty when they can.
    norms: the weights of the norms by channel between, and of PReLU; names alone where they have
    none.
    """

    count: int
    producers: Places
    hands_on: Places
    consumers: Places
    fixed: str = ""
    norms: Places = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The first weight that makes them."""
        return next(iter(self.producers or self.hands_on))

    def roles(self) -> Iterator[tuple[str, list[list[int]], bool]]:
        """Yield each weight with the places of the channels, and whether they are its outputs."""
        for places, outputs in (
            (self.producers, True),
            (self.hands_on, True),
            (self.norms, True),
            (self.consumers, False),
        ):
            for name, of in places.items():
                yield name, of, outputs


Gone = Sequence[tuple[Coupled, Sequence[int]]]
"""Groups, and which channels of each are to go."""


def axis_of(layer: nn.Module, outputs: bool) -> int:
    """Return the axis of a layer's weight along which its outputs, or its inputs, are."""
    if getattr(layer, "groups", 1) > 1:
        return 0  # depthwise: its inputs are its outputs, transposed or not
    return int(outputs == bool(getattr(layer, "transposed", False)))


def index_of(places: Iterable[Iterable[int]], device: torch.device) -> Tensor:
    """Return places as an int64 index."""
    return torch.tensor([p for of in places for p in of], dtype=torch.int64, device=device)


@torch.no_grad()
def silence(model: nn.Module, gone: Gone, made: bool = True) -> None:
    """Set to zero, in place, what takes channels, and where asked what makes them."""
    for group, channels in gone:
        for name, of, outputs in group.roles():
            if name in group.norms or (outputs and not made):
                continue
            layer = layer_of(model, name)
            index = index_of((of[c] for c in channels), layer.weight.device)
            layer.weight.data.index_fill_(axis_of(layer, outputs), index, 0)
            if outputs and layer.bias is not None:
                layer.bias.data.index_fill_(0, index, 0)


def places_of(gone: Gone) -> dict[tuple[str, bool], set[int]]:
    """Return (weight name, whether of its outputs) -> the places that are to go."""
    away: dict[tuple[str, bool], set[int]] = {}
    for group, channels in gone:
        for name, of, outputs in group.roles():
            away.setdefault((name, outputs), set()).update(p for c in channels for p in of[c])
    return away


def cut(model: nn.Module, gone: Gone) -> None:
    """Take channels out of a model, in place: of what makes them, takes them and is between."""
    for (name, outputs), places in places_of(gone).items():
        layer = layer_of(model, name)
        if isinstance(layer, BY_CHANNEL):
            _cut_norm(layer, places)
        else:
            _cut_layer(layer, outputs, places)


def _cut_layer(layer: Any, outputs: bool, places: set[int]) -> None:
    axis = axis_of(layer, outputs)
    _keep(layer, "weight", axis, places)
    if outputs:
        _keep(layer, "bias", 0, places)
    left = layer.weight.shape[axis]
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    if getattr(layer, "groups", 1) > 1:
        layer.groups = layer.in_channels = layer.out_channels = left
    else:
        setattr(layer, f"{'out' if outputs else 'in'}_{kind}", left)


def _cut_norm(norm: Any, places: set[int]) -> None:
    if isinstance(norm, nn.PReLU):
        _keep(norm, "weight", 0, places)
        norm.num_parameters = norm.weight.shape[0]
        return
    for local in ("weight", "bias", "running_mean", "running_var"):
        _keep(norm, local, 0, places)
    norm.num_features -= len(places)


@torch.no_grad()
def _keep(module: nn.Module, local: str, axis: int, places: set[int]) -> None:
    """Replace a parameter or a buffer by what is at all other places of an axis."""
    old = getattr(module, local)
    if old is None:
        return
    kept = [[p for p in range(old.shape[axis]) if p not in places]]
    new = old.detach().index_select(axis, index_of(kept, old.device))
    if local in module._parameters:
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, local, new)


def shared(parameters: Mapping[str, Any]) -> set[str]:
    """Return the names of what is there under several names."""
    names: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    return {name for same in names.values() if len(same) > 1 for name in same}
