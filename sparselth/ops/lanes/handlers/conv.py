"""masked_conv2d on lanes: the handlers of its ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...contract import OPS, compute_dtype
from ..buffers import as_buffer
from ..handling import handles
from ..tensor import LaneTensor, in_lanes
from ..value import NO_LIMIT, Activation, Affine, AffineSum, LaneBuffer, LazyValue

_aten = torch.ops.aten
_lanes_conv2d = OPS.lanes_conv2d.default
_lanes_fused_conv2d = OPS.lanes_fused_conv2d.default
_lanes_fused_conv2d_backward = OPS.lanes_fused_conv2d_backward.default
_lanes_conv2d_backward = OPS.lanes_conv2d_backward.default
_lanes_conv2d_grad_input = OPS.lanes_conv2d_grad_input.default
_lanes_conv2d_grad_weight = OPS.lanes_conv2d_grad_weight.default


def _computed(lanes: Tensor, parameter: Tensor) -> Tensor:
    """Return a weight or bias as the ops in lanes take it: float32 for activations of 16 bits."""
    dtype = compute_dtype(lanes.dtype)
    return parameter if parameter.dtype == dtype else parameter.to(dtype)


class _Expression(NamedTuple):
    """What a convolution reads: a sum, or its ReLU up to a limit."""

    total: AffineSum
    relu: bool = False
    upper: float = NO_LIMIT


def _expression(value: LazyValue, padding: Sequence[int]) -> _Expression | None:
    """Return what is to be computed as a convolution reads it; None where it lies ready."""
    state = value.state
    if isinstance(state, Activation):
        return _Expression(state.total, True, state.upper)
    if isinstance(state, AffineSum):
        return _Expression(state)
    buffer = value.buffer()
    # Without a halo for the padding it would be copied into one, whole.
    if buffer is not None and buffer.halo < max(padding):
        return _Expression(AffineSum(Affine(buffer)))
    return None


@handles(OPS.masked_conv2d.default)
def conv(input, weight, mask, bias, plan, stride, padding, dilation, groups, moments: bool = False):
    """Return y = conv2d(x, w * mask) + bias in lanes, of an input in lanes; no other is taken.

    moments: whether a batch norm is expected to ask for the statistics of y.
    """
    if not in_lanes(input) or isinstance(weight, LaneTensor):
        return NotImplemented
    conv, batch = (stride, padding, dilation, groups), input.shape[0]
    weight, bias = _computed(input, weight), None if bias is None else _computed(input, bias)
    if weight.numel():
        expression = _expression(input._value, padding)
        if expression is None and moments:
            expression = _Expression(AffineSum(Affine(as_buffer(input))))
        if expression is not None:
            return _fused(input._value, expression, weight, mask, bias, plan, conv, moments)
    buffer = as_buffer(input)
    out = _lanes_conv2d(buffer.data, batch, buffer.halo, weight, mask, bias, plan, *conv)
    return LaneTensor.wrap(out, batch, 0)


def _fused(
    value: LazyValue, expression: _Expression, weight, mask, bias, plan, conv, moments: bool
) -> LaneTensor:
    """Return y of an activation that is computed as it is read, or that has statistics to sum."""
    batch = value.batch
    (a, second), relu, upper = expression
    # Of one term it takes as long to compute again as to read; a sum would be read twice each time.
    b = Affine(LaneBuffer(None, 0)) if second is None else second  # type: ignore[arg-type]
    out, x, found = _lanes_fused_conv2d(
        a.buffer.data,
        batch,
        a.buffer.halo,
        a.scale,
        a.shift,
        b.buffer.data,
        b.buffer.halo,
        b.scale,
        b.shift,
        relu,
        upper,
        second is not None,
        weight,
        mask,
        bias,
        plan,
        *conv,
        moments,
    )
    if second is not None:
        value.state = LaneBuffer(x, 0)
    return LaneTensor.wrap(out, batch, 0, found if moments else None)


@handles(OPS.masked_conv2d_grad_input.default)
def conv_grad_input(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    """Return dx in lanes, of a grad_output in lanes."""
    if not in_lanes(grad_output) or isinstance(weight, LaneTensor):
        return NotImplemented
    grad, batch = as_buffer(grad_output), grad_output.shape[0]
    conv = (stride, padding, dilation, groups)
    weight = _computed(grad_output, weight)
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


def conv_backward(grad_output, input, weight, mask, plan, stride, padding, dilation, groups):
    """Return both gradients of a convolution of lanes. ATen has no op like it.

    grad_output: (N, C_out, H_out, W_out), plain or in lanes.  input: (N, C_in, H, W), likewise.
    weight, mask, plan, stride, padding, dilation, groups: as of the op `masked_conv2d`.
    Returns dx in lanes, without a halo, and dw of the weight's shape, 0 where the mask prunes;
    float32 for an input of 16 bits.
    """
    grad = as_buffer(grad_output)
    batch, conv = input.shape[0], (stride, padding, dilation, groups)
    weight = _computed(input, weight)
    known = in_lanes(input) and weight.numel()
    expression = _expression(input._value, padding) if known else None
    if expression is not None and expression.total.second is None:
        ((buffer, scale, shift), _), relu, upper = expression
        grad_input, grad_weight = _lanes_fused_conv2d_backward(
            grad.data,
            grad.halo,
            buffer.data,
            batch,
            buffer.halo,
            scale,
            shift,
            relu,
            upper,
            weight,
            mask,
            plan,
            *conv,
        )
        return LaneTensor.wrap(grad_input, batch, 0), grad_weight
    buffer = as_buffer(input)
    grad_input, grad_weight = _lanes_conv2d_backward(
        grad.data, grad.halo, buffer.data, batch, buffer.halo, weight, mask, plan, *conv
    )
    return LaneTensor.wrap(grad_input, batch, 0), grad_weight


@handles(_aten.sum.dim_IntList, takes="sums over batch, height and width")
def _(x, dim, keepdim=False, *, dtype=None):
    # The gradient of a convolution's bias.
    if not in_lanes(x) or sorted(dim or ()) != [0, 2, 3] or keepdim or dtype is not None:
        return NotImplemented
    return channel_sums(x).to(x.dtype)


def channel_sums(x: Tensor) -> Tensor:
    """Return sums over images and pixels, float32 of 16 bits; halos and spare lanes are zero."""
    return as_buffer(x).data.sum((0, 2, 3, 4), dtype=compute_dtype(x.dtype))
