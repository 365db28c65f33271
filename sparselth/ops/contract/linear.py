"""masked_linear and its gradients: schemas and fake kernels."""

from __future__ import annotations

from .arguments import compute_dtype
from .registry import define, fake

SCHEMAS: dict[str, str] = {
    "masked_linear": (
        "(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor? plan) -> Tensor"
    ),
    "masked_linear_grad_input": (
        "(Tensor grad_output, Tensor weight, Tensor mask, Tensor? plan) -> Tensor"
    ),
    "masked_linear_grad_weight": (
        "(Tensor grad_output, Tensor input, Tensor mask, Tensor? plan, bool wide) -> Tensor"
    ),
}

define(SCHEMAS)


@fake("masked_linear")
def _(input, weight, mask, bias, plan):
    """Apply the linear map with the weights that the mask keeps.

    y[n, o] = bias[o] + sum over kept i of x[n, i] w[o, i],   y = x (w * mask)^T + bias

    input: x (rows, C_in), float16, bfloat16, float32 or float64.
    weight: w (C_out, C_in), the input's dtype, or float32 with 16 bits.
    mask: bool, the weight's shape; True keeps. Where it is False the weight counts as zero,
    whatever it holds.
    bias: (C_out,), the input's dtype, or float32 with 16 bits; None for none.
    plan: int32 (length,), the mask's by `sparselth.ops.conv_plan(mask)`; None builds it anew in
    each call.
    Returns y (rows, C_out), the input's dtype, contiguous. 16-bit types are summed in float32 and
    rounded once.

    Differentiable any number of times.
    """
    return input.new_empty((input.shape[0], weight.shape[0]))


@fake("masked_linear_grad_input")
def _(grad_output, weight, mask, plan):
    """Compute the gradient of `masked_linear` with respect to its input.

    dx[n, i] = sum over kept o of dy[n, o] w[o, i],   dx = dy (w * mask)

    grad_output: dy (rows, C_out).
    weight, mask, plan: the forward's.
    Returns dx (rows, C_in), the dtype of grad_output, contiguous.

    Differentiable any number of times.
    """
    return grad_output.new_empty((grad_output.shape[0], weight.shape[1]))


@fake("masked_linear_grad_weight")
def _(grad_output, input, mask, plan, wide):
    """Compute the gradient of `masked_linear` with respect to its weight, of kept weights only.

    dw[o, i] = sum over n of dy[n, o] x[n, i] where kept, and exactly 0 elsewhere

    grad_output: dy (rows, C_out).
    input: x (rows, C_in), the dtype of grad_output.
    mask, plan: the forward's.
    wide: return float32 of 16 bits, what is summed in, for a weight of float32.
    Returns dw (C_out, C_in), the dtype of the input or that one, contiguous.

    Differentiable any number of times.
    """
    return input.new_empty(mask.shape, dtype=compute_dtype(input.dtype) if wide else None)
