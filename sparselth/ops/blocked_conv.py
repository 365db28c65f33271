"""masked_conv2d of an activation that is in blocks, straight to its kernels.

The op itself would get there too, through torch.library's autograd and the subclass's dispatch.
That is more Python for each pass of each layer, which a small network notices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import contract
from .blocked_handlers import conv, conv_grad_input, conv_grad_weight


class BlockedConv2d(torch.autograd.Function):
    """`contract.masked_conv2d` for a `BlockedTensor`; differentiable any number of times."""

    @staticmethod
    def forward(ctx, input, weight, mask, bias, plan, stride, padding, dilation, groups) -> Tensor:
        inputs = (input, weight, mask, bias, plan, stride, padding, dilation, groups)
        contract.conv_setup(ctx, inputs, None)
        return conv(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):
        input, weight, mask, plan = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.dense_passes or not input.is_blocked():
            return contract.conv_backward(ctx, grad)
        need_input, need_weight, _, need_bias, *_ = ctx.needs_input_grad
        grad = contract.in_layout_of(input, grad)
        grads: list[Tensor | None] = [None] * 9
        if need_input:
            grads[0] = conv_grad_input(grad, weight, mask, plan, input.shape[2:], *ctx.conv)
        if need_weight:
            grads[1] = conv_grad_weight(grad, input, mask, plan, *ctx.conv)
        if ctx.has_bias and need_bias:
            grads[3] = grad.sum((0, 2, 3))
        return tuple(grads)
