"""masked_conv2d and its gradients on a GPU, by whichever kernel serves the mask; else dense.

Arguments are those of the ops, already checked; no plan is read, as the mask itself leads to the
kernels that can serve it, see `candidates.py`. Dense is the oracle, cuDNN with the mask applied:
for float64, and for images that no kernel fits.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from ..contract import memory_format
from .candidates import candidates_for, candidates_in_backward

CONVOLUTIONS = (
    "masked_conv2d",
    "masked_conv2d_relu",
    "masked_conv2d_grad_input",
    "masked_conv2d_grad_weight",
)


def masked_conv2d(input, weight, mask, bias, plan, *conv: Any, relu: bool = False) -> Tensor:
    """Return y, or max(y, 0), in the layout of the input: see the op `masked_conv2d`."""
    kernel = candidates_for(mask, conv[3]).choose(input.dtype, input.shape[2:], conv)
    if kernel is None:
        run = reference.masked_conv2d_relu if relu else reference.masked_conv2d
        return run(input, weight, mask, bias, plan, *conv)
    out = (kernel.forward_relu if relu else kernel.forward)(input, weight, mask, bias, conv)
    return out.contiguous(memory_format=memory_format(input))


def masked_conv2d_relu(*arguments: Any) -> Tensor:
    """Return max(y, 0): see the op `masked_conv2d_relu`."""
    return masked_conv2d(*arguments, relu=True)


def masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv: Any) -> Tensor:
    """Return dx in the layout of grad_output: see the op `masked_conv2d_grad_input`."""
    kernel = candidates_in_backward(mask, conv[3]).choose(grad_output.dtype, input_hw, conv)
    if kernel is None:
        return reference.masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    grad = kernel.grad_input(grad_output, weight, mask, input_hw, conv)
    return grad.contiguous(memory_format=memory_format(grad_output))


def masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv: Any) -> Tensor:
    """Return dw, contiguous, 0 where pruned: see the op `masked_conv2d_grad_weight`."""
    kernel = candidates_in_backward(mask, conv[3]).choose(input.dtype, input.shape[2:], conv)
    if kernel is None:
        return reference.masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)
    return kernel.grad_weight(grad_output, input, mask, conv)
