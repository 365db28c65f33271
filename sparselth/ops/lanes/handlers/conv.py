"""masked_conv2d on lanes: the handlers of its ops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...contract import OPS, ConvSettings, compute_dtype
from ..buffers import as_buffer, buffer_of
from ..handling import handles
from ..tensor import LaneTensor, in_lanes
from ..value import Affine, AffineSum, Expression, LaneBuffer, LazyValue, expression_of

_aten = torch.ops.aten
_lanes_conv2d = OPS.lanes_conv2d.default
_lanes_fused_conv2d = OPS.lanes_fused_conv2d.default
_lanes_fused_conv2d_backward = OPS.lanes_fused_conv2d_backward.default
_lanes_conv2d_backward = OPS.lanes_conv2d_backward.default
_lanes_conv2d_grad_input = OPS.lanes_conv2d_grad_input.default
_lanes_conv2d_grad_weight = OPS.lanes_conv2d_grad_weight.default


def _computed(stored: torch.dtype, parameter: Tensor) -> Tensor:
    """Return a weight or bias as the ops in lanes take it: float32 for activations of 16 bits."""
    dtype = compute_dtype(stored)
    return parameter if parameter.dtype == dtype else parameter.to(dtype)


def _expression(value: LazyValue, padding: Sequence[int]) -> Expression | None:
    """Return what is to be computed as a convolution reads it; None where it lies ready."""
    expression = expression_of(value.state)
    if expression is not None:
        return expression
    buffer = value.buffer()
    # Without a halo for the padding it would be copied into one, whole.
    if buffer is not None and buffer.halo < max(padding):
        return Expression(AffineSum(Affine(buffer)))
    return None


@handles(OPS.masked_conv2d.default)
def conv(input, weight, mask, bias, plan, stride, padding, dilation, groups, moments: bool = False):
    """Return y = conv2d(x, w * mask) + bias in lanes, of an input in lanes; no other is taken.

    moments: whether a batch norm is expected to ask for the statistics of y.
    """
    if not in_lanes(input) or isinstance(weight, LaneTensor):
        return NotImplemented
    conv = (stride, padding, dilation, groups)
    out = convolved(input._value, input.dtype, weight, mask, bias, plan, conv, moments)
    return LaneTensor.of(out, input._value.batch)


def convolved(
    value: LazyValue,
    dtype: torch.dtype,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    plan: Tensor | None,
    conv: ConvSettings,
    moments: bool,
) -> LaneBuffer:
    """Return the same as a buffer, computing what is not computed yet of the input as it is read.

    value: the input.  dtype: the input's.
    A sum of two terms is kept for whoever reads it next: of one term it takes as long to compute
    again as to read.
    """
    weight, bias = _computed(dtype, weight), None if bias is None else _computed(dtype, bias)
    expression = _expression(value, conv[1]) if weight.numel() else None
    if expression is None:
        buffer = buffer_of(value)
        if not moments or not weight.numel():
            data, halo = buffer.data, buffer.halo
            out = _lanes_conv2d(data, value.batch, halo, weight, mask, bias, plan, *conv)
            return LaneBuffer(out, 0)
        expression = Expression(AffineSum(Affine(buffer)))
    (a, second), relu, upper = expression
    b = (None, 0, None, None) if second is None else (*second.buffer[:2], *second[1:])
    out, x, found = _lanes_fused_conv2d(
        *(a.buffer.data, value.batch, a.buffer.halo, a.scale, a.shift, *b, relu, upper),
        *(second is not None, weight, mask, bias, plan, *conv, moments),
    )
    if second is not None:
        value.state = LaneBuffer(x, 0)
    return LaneBuffer(out, 0, moments=found if moments else None)


@handles(OPS.masked_conv2d_grad_input.default)
def conv_grad_input(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    """Return dx in lanes, of a grad_output in lanes."""
    if not in_lanes(grad_output) or isinstance(weight, LaneTensor):
        return NotImplemented
    grad, batch = as_buffer(grad_output), grad_output.shape[0]
    conv = (stride, padding, dilation, groups)
    weight = _computed(grad_output.dtype, weight)
    out = _lanes_conv2d_grad_input(grad.data, batch, grad.halo, weight, mask, plan, input_hw, *conv)
    return LaneTensor.wrap(out, batch, 0)


@handles(OPS.masked_conv2d_grad_weight.default)
def conv_grad_weight(grad_output, input, mask, plan, stride, padding, dilation, groups):
    """Return dw, a plain tensor, float32 of 16 bits, where grad_output or input is in lanes."""
    if not in_lanes(grad_output) and not in_lanes(input):
        return NotImplemented
    grad, buffer = as_buffer(grad_output), as_buffer(input)
    conv = (stride, padding, dilation, groups)
    return _lanes_conv2d_grad_weight(
        grad.data, grad.halo, buffer.data, input.shape[0], buffer.halo, mask, plan, *conv
    )


def conv_gradients(
    grad: LaneBuffer,
    value: LazyValue,
    input_hw: Sequence[int],
    weight: Tensor,
    mask: Tensor,
    plan: Tensor | None,
    conv: ConvSettings,
    needs: Sequence[bool],
) -> tuple[LaneBuffer | None, Tensor | None]:
    """Return the gradients of input and weight, of a convolution in lanes: both in one pass.

    grad: dy.  value: the input.  input_hw: its (H, W).  weight, mask, plan, conv: as of
    the op `masked_conv2d`.  needs: which of the two are wanted; the others are None.
    Returns dx, without a halo, and dw of the weight's shape, 0 where the mask prunes; float32 for
    an input of 16 bits.
    """
    need_input, need_weight = needs
    batch, weight = value.batch, _computed(grad.data.dtype, weight)
    given, rest = (grad.data, batch, grad.halo), (mask, plan)
    if not need_weight:
        if not need_input:
            return None, None
        return LaneBuffer(_lanes_conv2d_grad_input(*given, weight, *rest, input_hw, *conv), 0), None
    if not need_input:
        buffer = buffer_of(value)
        x = (buffer.data, batch, buffer.halo)
        return None, _lanes_conv2d_grad_weight(grad.data, grad.halo, *x, *rest, *conv)
    expression = _expression(value, conv[1]) if weight.numel() else None
    if expression is not None and expression.total.second is None:
        ((buffer, scale, shift), _), relu, upper = expression
        dx, dw = _lanes_fused_conv2d_backward(
            *(grad.data, grad.halo, buffer.data, batch, buffer.halo, scale, shift, relu, upper),
            *(weight, *rest, *conv),
        )
    else:
        buffer = buffer_of(value)
        dx, dw = _lanes_conv2d_backward(
            *(grad.data, grad.halo, buffer.data, batch, buffer.halo, weight, *rest, *conv)
        )
    return LaneBuffer(dx, 0), dw


@handles(_aten.sum.dim_IntList, takes="sums over batch, height and width")
def _(x, dim, keepdim=False, *, dtype=None):
    # The gradient of a convolution's bias.
    if not in_lanes(x) or sorted(dim or ()) != [0, 2, 3] or keepdim or dtype is not None:
        return NotImplemented
    return channel_sums(as_buffer(x)).to(x.dtype)


def channel_sums(x: LaneBuffer) -> Tensor:
    """Return sums over images and pixels, float32 of 16 bits; halos and spare lanes are zero."""
    return x.data.sum((0, 2, 3, 4), dtype=compute_dtype(x.data.dtype))
