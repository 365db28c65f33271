"""The oracle of masked_conv2d and of its gradients.

y = conv2d(x, w * mask) + bias,    x (N, C_in, H, W), w and mask (C_out, C_in / groups, kH, kW)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..contract import ConvSettings, memory_format
from .mask import apply_mask


def masked_conv2d(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    """Return y[n, o, p, q] = bias[o] + sum over kept (i, r, s) of x[n, i, ...] w[o, i, r, s]."""
    out = F.conv2d(input, apply_mask(weight, mask), bias, stride, padding, dilation, groups)
    return out.contiguous(memory_format=memory_format(input))


def masked_conv2d_relu(*arguments):
    """Return max(y, 0) of `masked_conv2d`."""
    return masked_conv2d(*arguments).relu()


def convolution_backward(grad_output, input, weight, conv: ConvSettings, output_mask):
    """Return the gradients of input, weight and bias of a dense convolution; None if not asked for.

    grad_output: (N, C_out, H_out, W_out).  input: (N, C_in, H, W).  weight: (C_out, C_in / groups,
    kH, kW).  conv: stride, padding and dilation in pairs, and groups.
    output_mask: three bools, which gradients are wanted. Of the input only the shape is read for
    its own gradient, and of the weight for its own.
    """
    stride, padding, dilation, groups = conv
    return torch.ops.aten.convolution_backward(
        grad_output,
        input,
        weight,
        None,
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        groups,
        output_mask,
    )


def masked_conv2d_grad_input(
    grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups
):
    """Return dx[n, i, h, w] = sum over kept (o, r, s) of dy[n, o, p, q] w[o, i, r, s]."""
    shape = (grad_output.shape[0], weight.shape[1] * groups, *input_hw)
    conv = (stride, padding, dilation, groups)
    grad, _, _ = convolution_backward(
        grad_output,
        grad_output.new_empty(shape),
        apply_mask(weight, mask),
        conv,
        [True, False, False],
    )
    return grad.contiguous(memory_format=memory_format(grad_output))


def masked_conv2d_grad_weight(grad_output, input, mask, plan, stride, padding, dilation, groups):
    """Return dw[o, i, r, s] = sum over n, p, q of dy[n, o, p, q] x[n, i, ...]; 0 where pruned."""
    conv = (stride, padding, dilation, groups)
    weight = input.new_empty(mask.shape)  # only its shape is read
    _, grad, _ = convolution_backward(grad_output, input, weight, conv, [False, True, False])
    # Where cuDNN left it in another layout, the pass that masks it is the one that moves it: the
    # result lies as its first operand does.
    return apply_mask(grad, mask.contiguous()).contiguous()
