"""masked_conv2d on blocks: the handlers of its ops, and the way straight to its kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from . import autograd
from .blocked_handlers import blocks_of, handles, is_blocked
from .blocked_tensor import BlockedTensor
from .masking import mark_on_mask
from .transforms import transformed

_aten = torch.ops.aten
_ops = torch.ops.sparselth


@handles(_ops.masked_conv2d.default)
def conv(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    if not is_blocked(input) or isinstance(weight, BlockedTensor):
        return NotImplemented
    block, batch = blocks_of(input), input.shape[0]
    conv = (stride, padding, dilation, groups)
    out = _ops.blocked_conv2d.default(
        block.data, batch, block.halo, weight, mask, bias, plan, *conv
    )
    return BlockedTensor.wrap(out, batch, 0)


@handles(_ops.masked_conv2d_grad_input.default)
def conv_grad_input(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    if not is_blocked(grad_output) or isinstance(weight, BlockedTensor):
        return NotImplemented
    grad, batch = blocks_of(grad_output), grad_output.shape[0]
    conv = (stride, padding, dilation, groups)
    out = _ops.blocked_conv2d_grad_input.default(
        grad.data, batch, grad.halo, weight, mask, plan, input_hw, *conv
    )
    return BlockedTensor.wrap(out, batch, 0)


@handles(_ops.masked_conv2d_grad_weight.default)
def conv_grad_weight(grad_output, input, mask, plan, stride, padding, dilation, groups):
    if not is_blocked(grad_output) and not is_blocked(input):
        return NotImplemented
    grad, block = blocks_of(grad_output), blocks_of(input)
    conv = (stride, padding, dilation, groups)
    return _ops.blocked_conv2d_grad_weight.default(
        grad.data, grad.halo, block.data, input.shape[0], block.halo, mask, plan, *conv
    )


def conv_backward(grad_output, input, weight, mask, plan, stride, padding, dilation, groups):
    """Return both gradients of a convolution of blocks. ATen has no op like it."""
    grad, block = blocks_of(grad_output), blocks_of(input)
    batch, conv = input.shape[0], (stride, padding, dilation, groups)
    grad_input, grad_weight = _ops.blocked_conv2d_backward.default(
        grad.data, grad.halo, block.data, batch, block.halo, weight, mask, plan, *conv
    )
    return BlockedTensor.wrap(grad_input, batch, 0), grad_weight


@handles(_aten.sum.dim_IntList)
def _(x, dim, keepdim=False, *, dtype=None):
    # The gradient of a convolution's bias. Halos and spare lanes are zero.
    if not x.is_blocked() or sorted(dim or ()) != [0, 2, 3] or keepdim or dtype is not None:
        return NotImplemented
    return blocks_of(x).data.sum((0, 2, 3, 4))


class BlockedConv2d(torch.autograd.Function):
    """`masked_conv2d` of a `BlockedTensor`, differentiable any number of times.

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
            or not is_blocked(input)
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
