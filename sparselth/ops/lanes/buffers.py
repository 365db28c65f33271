"""The buffer of a tensor: noted, computed or converted, whichever is cheapest."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from ..contract import OPS
from .layout import HALO, lanes
from .tensor import LaneTensor
from .value import LaneBuffer

_to_lanes = OPS.to_lanes.default

_BUFFER = "sparselth.buffer"


def remember(x: Tensor, buffer: LaneBuffer) -> None:
    """Note that the activation `x` is there in lanes as well.

    Its graph node keeps the note: gone with the graph, and never on a tensor that the user fills,
    which could change unseen.
    """
    node: Any = x.grad_fn
    if node is not None:
        node.metadata[_BUFFER] = (x.output_nr, x._version, weakref.ref(buffer.data), buffer.halo)


def recall(x: Tensor) -> LaneBuffer | None:
    """Return the buffer of `x` if it was noted, is still alive and `x` has not changed."""
    node: Any = x.grad_fn
    if node is None or (note := node.metadata.get(_BUFFER)) is None:
        return None
    output, version, reference, halo = note
    data = reference()
    if data is None or output != x.output_nr or version != x._version:
        return None
    return LaneBuffer(data, halo)


def as_buffer(x: Tensor) -> LaneBuffer:
    """Return the values of an activation or gradient in lanes, converting if need be."""
    if isinstance(x, LaneTensor):
        buffer = x._value.buffer()
        if buffer is not None:
            return buffer
        x = x._value.read()
    else:
        buffer = recall(x)
        if buffer is not None:
            return buffer
    return LaneBuffer(_to_lanes(x.contiguous(), lanes(x.dtype), HALO), HALO)


def same_shape_dtype(x: Any, like: Tensor) -> bool:
    return isinstance(x, Tensor) and x.shape == like.shape and x.dtype == like.dtype
