"""Max pooling on lanes, forward and backward: handlers, see `tensor.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...contract import OPS
from ..buffers import as_buffer
from ..handling import handles
from ..layout import halo
from ..tensor import LaneTensor, in_lanes
from ..value import Affine, AffineSum, Expression, LazyValue, Positions, expression_of

_aten = torch.ops.aten

# Positions in a window are uint8.
_LARGEST_WINDOW = 255


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[-1])


def _read(x: LaneTensor) -> Expression:
    """Return what pooling reads: an expression of one term goes along, and is not computed."""
    expression = expression_of(x._value.state)
    if expression is not None and expression.total.second is None:
        return expression
    return Expression(AffineSum(Affine(as_buffer(x))))


@handles(
    _aten.max_pool2d_with_indices.default,
    takes=f"windows of up to {_LARGEST_WINDOW}, dilation=1 and ceil_mode=False",
)
def _(x, kernel_size, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
    kernel, pads = _pair(kernel_size), _pair(padding)
    strides = _pair(stride) if stride else kernel
    if (
        not in_lanes(x)
        or ceil_mode
        or _pair(dilation) != (1, 1)
        or kernel[0] * kernel[1] > _LARGEST_WINDOW
    ):
        return NotImplemented
    if any(2 * pad > size for pad, size in zip(pads, kernel, strict=True)):
        return NotImplemented  # ATen says what is wrong
    batch, input_hw = x.shape[0], _pair(x.shape[2:])
    if any(n + 2 * p < k for n, p, k in zip(input_hw, pads, kernel, strict=True)):
        return NotImplemented
    ((buffer, scale, shift), _), relu, upper = _read(x)
    around = halo(x.dtype)
    data, where = OPS.lanes_max_pool2d.default(
        *(buffer.data, batch, buffer.halo, scale, shift, relu, upper),
        *(kernel, strides, pads, around),
    )
    out = LaneTensor.wrap(data, batch, around)
    positions = Positions(where, kernel, strides, pads, input_hw)
    return out, LaneTensor.make(LazyValue(positions, batch), out.shape, torch.int64)


@handles(_aten.max_pool2d_with_indices_backward.default)
def _(grad_output, x, kernel_size, stride, padding, dilation, ceil_mode, indices):
    state = indices._value.state if isinstance(indices, LaneTensor) else None
    if not isinstance(state, Positions):
        return NotImplemented
    grad, batch, around = as_buffer(grad_output), x.shape[0], halo(grad_output.dtype)
    out = OPS.lanes_max_pool2d_backward.default(
        grad.data,
        batch,
        grad.halo,
        state.data,
        state.input_hw,
        state.kernel,
        state.stride,
        state.padding,
        around,
    )
    return LaneTensor.wrap(out, batch, around)
