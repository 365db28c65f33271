"""What shares or copies the values of lanes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..handling import handles
from ..tensor import LaneTensor

_aten = torch.ops.aten


@handles(_aten.detach.default, _aten.alias.default)
def _(x):
    return x.alias()


@handles(_aten.clone.default, takes="no channels_last")
def _(x, *, memory_format=None):
    state = x._value.state
    if isinstance(state, Tensor):
        return LaneTensor.hold(state.clone(memory_format=memory_format))
    if memory_format not in (None, torch.preserve_format, torch.contiguous_format):
        return NotImplemented
    return x.like(state)  # buffers are never written to
