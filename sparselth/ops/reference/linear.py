"""The oracle of masked_linear and of its gradients.

y = x (w * mask)^T + bias,    x (rows, C_in), w and mask (C_out, C_in)

Where the weight is wider than activations of 16 bits, it is not rounded: they are widened, and
results are rounded once.
"""

from __future__ import annotations

import torch.nn.functional as F

from ..contract import compute_dtype
from .mask import apply_mask


def masked_linear(input, weight, mask, bias, plan):
    """Return y = x (w * mask)^T + bias."""
    if weight.dtype == input.dtype and (bias is None or bias.dtype == input.dtype):
        return F.linear(input, apply_mask(weight, mask), bias)
    wide = compute_dtype(input.dtype)
    bias = None if bias is None else bias.to(wide)
    return F.linear(input.to(wide), apply_mask(weight, mask).to(wide), bias).to(input.dtype)


def masked_linear_grad_input(grad_output, weight, mask, plan):
    """Return dx = dy (w * mask)."""
    return (grad_output.to(weight.dtype) @ apply_mask(weight, mask)).to(grad_output.dtype)


def masked_linear_grad_weight(grad_output, input, mask, plan, wide):
    """Return dw = mask * (dy^T x), if `wide` in what 16 bits are summed in."""
    if wide:
        dtype = compute_dtype(input.dtype)
        grad_output, input = grad_output.to(dtype), input.to(dtype)
    return apply_mask(grad_output.t() @ input, mask)
