"""The oracle of the convolutions of `contract/gpu.py`: that of `conv.py`, plans unread."""

from __future__ import annotations

import torch

from .conv import masked_conv2d, masked_conv2d_grad_input, masked_conv2d_grad_weight


def unstructured_conv2d(input, weight, mask, bias, plan, *conv):
    """Return y of `masked_conv2d`, contiguous."""
    return masked_conv2d(input, weight, mask, bias, plan, *conv).contiguous()


def unstructured_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv):
    """Return dx of `masked_conv2d_grad_input`, contiguous."""
    run = masked_conv2d_grad_input
    return run(grad_output, weight, mask, plan, input_hw, *conv).contiguous()


def unstructured_conv2d_grad_weight(grad_output, input, mask, plan, *conv):
    """Return dw of `masked_conv2d_grad_weight`."""
    return masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)


def column_vector_conv2d(input, weight, mask, bias, plan, vector, *conv):
    """Return y of `masked_conv2d`, channels_last."""
    out = masked_conv2d(input, weight, mask, bias, plan, *conv)
    return out.contiguous(memory_format=torch.channels_last)


def column_vector_conv2d_grad_input(grad_output, weight, mask, plan, vector, input_hw, *conv):
    """Return dx of `masked_conv2d_grad_input`, channels_last."""
    grad = masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    return grad.contiguous(memory_format=torch.channels_last)


def halo_block_conv2d(input, weight, mask, bias, plan, *conv):
    """Return y of `masked_conv2d`, channels_last."""
    out = masked_conv2d(input, weight, mask, bias, plan, *conv)
    return out.contiguous(memory_format=torch.channels_last)


def halo_block_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv):
    """Return dx of `masked_conv2d_grad_input`, channels_last."""
    grad = masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    return grad.contiguous(memory_format=torch.channels_last)


def halo_block_conv2d_grad_weight(grad_output, input, mask, plan, *conv):
    """Return dw of `masked_conv2d_grad_weight`."""
    return masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)
