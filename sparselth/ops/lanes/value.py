"""What stands behind an activation in lanes: its values, in whichever form they were left.

A `LazyValue` plays the part of a tensor's storage. It holds exactly one of: a buffer (see
`layout.py`), an expression over buffers that is not computed yet, or a plain tensor.
Expressions exist so that what follows can still join them: a batch norm, a residual addition and
the ReLU after them become part of what the next convolution reads, or one pass over memory; a norm
and its ReLU part of what max pooling reads as well.

Buffers are never written to. An in-place op replaces the value's state, so expressions and clones
may share buffers freely. A plain tensor is written to, by in-place ops and through views.
"""

from __future__ import annotations

import math
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from ..contract import OPS
from . import layout

_from_lanes = OPS.from_lanes.default
_scale_add_relu = OPS.lanes_scale_add_relu.default
_relu_backward_add = OPS.lanes_relu_backward_add.default


class LaneBuffer(NamedTuple):
    """Values in lanes, (bundles, C, H + 2 halo, W + 2 halo, lanes)."""

    data: Tensor
    halo: int
    source: ReluOf | None = None  # where the values come from, if that is worth knowing
    moments: Tensor | None = None  # their statistics by channel, of `lanes_fused_conv2d`

    def image_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        _, channels, rows, columns, _ = self.data.shape
        return channels, rows - 2 * self.halo, columns - 2 * self.halo


class ReluOf(NamedTuple):
    """relu(x * scale + shift), per channel: whoever reads x can tell where this is positive."""

    x: weakref.ref[Tensor]  # the data of a buffer
    scale: Tensor
    shift: Tensor


class Affine(NamedTuple):
    """buffer * scale + shift, per channel; None leaves that part out."""

    buffer: LaneBuffer
    scale: Tensor | None = None
    shift: Tensor | None = None


class AffineSum(NamedTuple):
    """One or two terms, added."""

    first: Affine
    second: Affine | None = None


class Activation(NamedTuple):
    """relu(total), cut at `upper`."""

    total: AffineSum
    upper: float


# The limit of a ReLU that has none: what ReLU6 has at 6.
NO_LIMIT = math.nan


class Expression(NamedTuple):
    """A sum, or its ReLU up to a limit, for whoever computes it as it is read."""

    total: AffineSum
    relu: bool = False
    upper: float = NO_LIMIT


class MaskedGrad(NamedTuple):
    """A gradient before the ReLU whose result was `gate`: 0 where gate <= 0 or >= upper.

    gate: or what went into the ReLU, which opens it as well, and may not be computed.
    """

    grad: LaneBuffer
    gate: LaneBuffer | AffineSum
    upper: float


class Positions(NamedTuple):
    """Where in its window each maximum was found: uint8 bundles without halo, row by row."""

    data: Tensor
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    input_hw: tuple[int, int]

    def indices(self, batch: int) -> Tensor:
        """Return what ATen calls the indices: int64 (batch, C, H, W), flat in the input plane."""
        where = layout.from_lanes(self.data, batch, 0).long()
        height, width = where.shape[2:]
        on = where.device
        top = torch.arange(height, device=on).view(-1, 1) * self.stride[0] - self.padding[0]
        left = torch.arange(width, device=on) * self.stride[1] - self.padding[1]
        rows, columns = top + where // self.kernel[1], left + where % self.kernel[1]
        return rows * self.input_hw[1] + columns


def evaluate(total: AffineSum, batch: int, relu: bool, upper: float = NO_LIMIT) -> LaneBuffer:
    """Compute a sum, and the ReLU after it, up to `upper`, in one pass."""
    (a, a_scale, a_shift), second = total
    if second is None:
        b, b_scale, b_shift = None, None, None
    else:
        b, b_scale, b_shift = second
    data, b_halo = (None, 0) if b is None else b[:2]
    halo = layout.halo(a.data.dtype)
    out = _scale_add_relu(
        a.data, batch, a.halo, a_scale, a_shift, data, b_halo, b_scale, b_shift, relu, upper, halo
    )
    if not relu or b is not None or a_scale is None or a_shift is None:
        return LaneBuffer(out, halo)
    return LaneBuffer(out, halo, ReluOf(weakref.ref(a.data), a_scale, a_shift))


def add_masked_grad(masked_grad: MaskedGrad, other: LaneBuffer | None, batch: int) -> LaneBuffer:
    """Compute a masked_grad gradient, and the sum with another one, in one pass."""
    grad, gate, upper = masked_grad
    if isinstance(gate, AffineSum):
        gate = evaluate(gate, batch, relu=False)
    data, other_halo = (None, 0) if other is None else other[:2]
    halo = layout.halo(grad.data.dtype)
    out = _relu_backward_add(
        grad.data, grad.halo, gate.data, gate.halo, upper, data, other_halo, halo
    )
    return LaneBuffer(out, halo)


State = LaneBuffer | AffineSum | Activation | MaskedGrad | Positions | Tensor


def expression_of(state: State) -> Expression | None:
    """Return the activation that is not computed yet, if that is what it is."""
    if isinstance(state, Activation):
        return Expression(state.total, True, state.upper)
    return Expression(state) if isinstance(state, AffineSum) else None


class LazyValue:
    """Values of `batch` images, shared by a tensor and everything detached from it."""

    __slots__ = ("batch", "state")

    def __init__(self, state: State, batch: int) -> None:
        self.state = state
        self.batch = batch

    def buffer(self) -> LaneBuffer | None:
        """Return the values in lanes, computing them if need be; None if they are plain."""
        state = self.state
        if isinstance(state, AffineSum):
            state = self.state = evaluate(state, self.batch, relu=False)
        elif isinstance(state, Activation):
            state = self.state = evaluate(state.total, self.batch, True, state.upper)
        elif isinstance(state, MaskedGrad):
            state = self.state = add_masked_grad(state, None, self.batch)
        return state if isinstance(state, LaneBuffer) else None

    def read(self) -> Tensor:
        """Return a plain tensor of the values, to be read only."""
        state = self.state
        if isinstance(state, Tensor):
            return state
        if isinstance(state, Positions):
            return state.indices(self.batch)
        buffer = self.buffer()
        assert buffer is not None
        return _from_lanes(buffer.data, self.batch, buffer.halo)

    def plain(self) -> Tensor:
        """Turn plain for good and return the tensor: for writing to it, and for views of it."""
        if not isinstance(self.state, Tensor):
            self.state = self.read()
        return self.state
