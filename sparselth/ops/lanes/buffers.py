"""The buffer of a tensor: noted, computed or converted, whichever is cheapest."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from ..contract import OPS
from . import layout
from .tensor import LaneTensor
from .value import LaneBuffer, LazyValue

_to_lanes = OPS.to_lanes.default

_BUFFER = "sparselth.buffer"


def remember(x: Tensor, buffer: LaneBuffer) -> None:
    """Note that the activation `x` is there in lanes as well.

    x: a plain tensor (N, C, H, W).  buffer: its values; the note alone does not keep them alive.
    Its graph node keeps the note: gone with the graph, and never on a tensor that the user fills,
    which could change unseen.
    """
    node: Any = x.grad_fn
    if node is not None:
        node.metadata[_BUFFER] = (x.output_nr, x._version, weakref.ref(buffer.data), buffer.halo)


def recall(x: Tensor) -> LaneBuffer | None:
    """Return the buffer of a plain `x` if it was noted, is still alive and `x` has not changed."""
    node: Any = x.grad_fn
    if node is None or (note := node.metadata.get(_BUFFER)) is None:
        return None
    output, version, reference, halo = note
    data = reference()
    if data is None or output != x.output_nr or version != x._version:
        return None
    return LaneBuffer(data, halo)


def as_buffer(x: Tensor) -> LaneBuffer:
    """Return the values of an activation or gradient in lanes, converting if need be.

    x: (N, C, H, W), plain in any layout, or a `LaneTensor`; float16, bfloat16, float32 or float64,
    on the CPU.
    Returns (bundles, C, H + 2 halo, W + 2 halo, L) with the halo it has: that of whoever computed
    it, or `layout.halo` where it is converted here. It is shared: nobody may write to it.
    """
    if isinstance(x, LaneTensor):
        return buffer_of(x._value)
    return recall(x) or _converted(x)


def buffer_of(value: LazyValue) -> LaneBuffer:
    """Return the same of what stands behind a `LaneTensor`, which may have turned plain."""
    return value.buffer() or _converted(value.read())


def _converted(x: Tensor) -> LaneBuffer:
    halo = layout.halo(x.dtype)
    return LaneBuffer(_to_lanes(x.contiguous(), layout.lanes(x.dtype), halo), halo)


def same_shape_dtype(x: Any, like: Tensor) -> bool:
    """Say whether `x` is a tensor of the shape and dtype of `like`: nothing is broadcast."""
    return isinstance(x, Tensor) and x.shape == like.shape and x.dtype == like.dtype
