"""masked_conv2d on lanes: the handlers of its ops, and the way straight to its kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from . import autograd
from .bitmask import mark_on_mask
from .lanes_handlers import as_buffer, handles, is_in_lanes
from .lanes_tensor import LaneTensor
from .transforms import transformed

_aten = torch.ops.aten
_ops = torch.ops.sparselth


@handles(_ops.masked_conv2d.default)
def conv(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    if not is_in_lanes(input) or isinstance(weight, LaneTensor):
        return NotImplemented
    buffer, batch = as_buffer(input), input.shape[0]
    conv = (stride, padding, dilation, groups)
    out = _ops.lanes_conv2d.default(
        buffer.data, batch, buffer.halo, weight, mask, bias, plan, *conv
    )
    return LaneTensor.wrap(out, batch, 0)


@handles(_ops.masked_conv2d_grad_input.default)
def conv_grad_input(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    if not is_in_lanes(grad_output) or isinstance(weight, LaneTensor):
        return NotImplemented
    grad, batch = as_buffer(grad_output), grad_output.shape[0]
    conv = (stride, padding, dilation, groups)
    out = _ops.lanes_conv2d_grad_input.default(
        grad.data, batch, grad.halo, weight, mask, plan, input_hw, *conv
    )
    return LaneTensor.wrap(out, batch, 0)


@handles(_ops.masked_conv2d_grad_weight.default)
def conv_grad_weight(grad_output, input, mask, plan, stride, padding, dilation, groups):
    if not is_in_lanes(grad_output) and not is_in_lanes(input):
        return NotImplemented
    grad, buffer = as_buffer(grad_output), as_buffer(input)
    conv = (stride, padding, dilation, groups)
    return _ops.lanes_conv2d_grad_weight.default(
        grad.data, grad.halo, buffer.data, input.shape[0], buffer.halo, mask, plan, *conv
    )


def conv_backward(grad_output, input, weight, mask, plan, stride, padding, dilation, groups):
    """Return both gradients of a convolution of lanes. ATen has no op like it."""
    grad, buffer = as_buffer(grad_output), as_buffer(input)
    batch, conv = input.shape[0], (stride, padding, dilation, groups)
    grad_input, grad_weight = _ops.lanes_conv2d_backward.default(
        grad.data, grad.halo, buffer.data, batch, buffer.halo, weight, mask, plan, *conv
    )
    return LaneTensor.wrap(grad_input, batch, 0), grad_weight


@handles(_aten.sum.dim_IntList)
def _(x, dim, keepdim=False, *, dtype=None):
    # The gradient of a convolution's bias. Halos and spare lanes are zero.
    if not x.is_in_lanes() or sorted(dim or ()) != [0, 2, 3] or keepdim or dtype is not None:
        return NotImplemented
    return as_buffer(x).data.sum((0, 2, 3, 4))


class LaneConv2d(torch.autograd.Function):
    """`masked_conv2d` of a `LaneTensor`, differentiable any number of times.

    The op itself would get to the kernels too, through torch.library's autograd and the subclass's
    dispatch: more Python for each pass of each layer, which a small network notices. And here both
    gradients are computed in one pass.
    """

    @staticmethod
    def forward(ctx, input, weight, mask, bias, plan, stride, padding, dilation, groups) -> Tensor:
        inputs = (input, weight, mask, bias, plan, stride, padding, dilation, groups)
        autograd.conv_setup(ctx, inputs, None)
        return conv(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):
        input, weight, mask, plan = ctx.saved_tensors
        if (
            torch.is_grad_enabled()
            or ctx.dense_passes
            or not is_in_lanes(input)
            or transformed(grad)
        ):
            return autograd.conv_backward(ctx, grad)
        need_input, need_weight, _, need_bias, *_ = ctx.needs_input_grad
        grad = autograd.in_layout_of(input, grad)
        grads: list[Tensor | None] = [None] * 9
        if need_input and need_weight:
            grads[:2] = conv_backward(grad, input, weight, mask, plan, *ctx.conv)
        elif need_input:
            grads[0] = conv_grad_input(grad, weight, mask, plan, input.shape[2:], *ctx.conv)
        elif need_weight:
            grads[1] = conv_grad_weight(grad, input, mask, plan, *ctx.conv)
        if grads[1] is not None:
            mark_on_mask(grads[1], mask)
        if ctx.has_bias and need_bias:
            grads[3] = grad.sum((0, 2, 3))
        return tuple(grads)
