"""The oracle of masked_linear and of its gradients.

y = x (w * mask)^T + bias,    x (rows, C_in), w and mask (C_out, C_in)
"""

from __future__ import annotations

import torch.nn.functional as F

from .mask import apply_mask


def masked_linear(input, weight, mask, bias, plan):
    """Return y = x (w * mask)^T + bias."""
    return F.linear(input, apply_mask(weight, mask), bias)


def masked_linear_grad_input(grad_output, weight, mask, plan):
    """Return dx = dy (w * mask)."""
    return grad_output @ apply_mask(weight, mask)


def masked_linear_grad_weight(grad_output, input, mask, plan):
    """Return dw = mask * (dy^T x)."""
    return apply_mask(grad_output.t() @ input, mask)
