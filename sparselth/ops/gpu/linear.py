"""masked_linear and its gradients on a GPU: 1 x 1 convolutions of one image, a pixel for each row.

Rows (rows, C) are that image, (1, C, 1, rows), in channels_last as they lie: nothing is copied. So
masks of blocks and vectors are served by the kernels of convolutions, see `candidates.py`; where
none is worth it, dense, cuBLAS with the mask applied. A weight of float32 beside rows of 16 bits is
rounded to them, as under autocast.
"""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..contract import compute_dtype
from .candidates import candidates_for, candidates_in_backward

LINEARS = ("masked_linear", "masked_linear_grad_input", "masked_linear_grad_weight")

# stride, padding, dilation, groups
_CONV = ((1, 1), (0, 0), (1, 1), 1)


def _images(rows: Tensor) -> Tensor:
    return rows.contiguous().t()[None, :, None]


def _rows(images: Tensor) -> Tensor:
    return images[0, :, 0].t().contiguous()


def as_kernels(matrix: Tensor) -> Tensor:
    """Return a weight or mask (C_out, C_in) as that of a 1 x 1 convolution, a view of it."""
    return matrix[:, :, None, None]


def masked_linear(input, weight, mask, bias, plan) -> Tensor:
    """Return y, contiguous: see the op `masked_linear`."""
    weight, bias = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
    kernels = as_kernels(mask)
    kernel = candidates_for(kernels, 1).choose(input.dtype, (1, len(input)), _CONV)
    if kernel is None or not len(input):
        return reference.masked_linear(input, weight, mask, bias, plan)
    return _rows(kernel.forward(_images(input), as_kernels(weight), kernels, bias, _CONV))


def masked_linear_grad_input(grad_output, weight, mask, plan) -> Tensor:
    """Return dx, contiguous: see the op `masked_linear_grad_input`."""
    weight, hw, kernels = weight.to(grad_output.dtype), (1, len(grad_output)), as_kernels(mask)
    kernel = candidates_in_backward(kernels, 1).choose(grad_output.dtype, hw, _CONV)
    if kernel is None or not len(grad_output):
        return reference.masked_linear_grad_input(grad_output, weight, mask, plan)
    return _rows(kernel.grad_input(_images(grad_output), as_kernels(weight), kernels, hw, _CONV))


def masked_linear_grad_weight(grad_output, input, mask, plan, wide) -> Tensor:
    """Return dw, contiguous, 0 where pruned: see the op `masked_linear_grad_weight`."""
    kernels = as_kernels(mask)
    kernel = candidates_in_backward(kernels, 1).choose(input.dtype, (1, len(input)), _CONV)
    if kernel is None or not len(input):
        return reference.masked_linear_grad_weight(grad_output, input, mask, plan, wide)
    dw = kernel.grad_weight(_images(grad_output), _images(input), kernels, _CONV)[:, :, 0, 0]
    return dw.to(compute_dtype(input.dtype)) if wide else dw
