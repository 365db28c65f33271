"""The derivatives of masked_linear and of its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..bitmask import mark_on_mask
from ..parameter_masks import dense_passes_of
from .registry import register_formula, serving


def linear_setup(ctx, inputs, output):
    """Keep what `linear_backward` needs, and which of its passes are dense for this input."""
    input, weight, mask, bias, plan = inputs
    ctx.has_bias = bias is not None
    ctx.dense_passes = dense_passes_of(plan)
    ctx.save_for_backward(input, weight, mask, plan)


def linear_backward(ctx, grad):
    """Differentiate `masked_linear` with respect to input, weight and bias."""
    input, weight, mask, plan = ctx.saved_tensors
    need_input, need_weight, _, need_bias, _ = ctx.needs_input_grad
    grad_input = grad_weight = grad_bias = None
    if need_input:
        run = serving("masked_linear_grad_input", grad, "grad_input" in ctx.dense_passes)
        grad_input = run(grad, weight, mask, plan)
    if need_weight:
        run = serving("masked_linear_grad_weight", grad, "grad_weight" in ctx.dense_passes)
        grad_weight = mark_on_mask(run(grad, input, mask, plan), mask)
    if ctx.has_bias and need_bias:
        grad_bias = grad.sum(0)
    return grad_input, grad_weight, None, grad_bias, None


def _linear_pair_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _linear_grad_input_backward(ctx, grad):
    grad_output, weight, mask, plan = ctx.saved_tensors
    need_output, need_weight, *_ = ctx.needs_input_grad
    d_output = d_weight = None
    if need_output:
        d_output = serving("masked_linear", grad)(grad, weight, mask, None, plan)
    if need_weight:
        d_weight = serving("masked_linear_grad_weight", grad)(grad_output, grad, mask, plan)
    return d_output, d_weight, None, None


def _linear_grad_weight_backward(ctx, grad):
    grad_output, input, mask, plan = ctx.saved_tensors
    need_output, need_input, *_ = ctx.needs_input_grad
    d_output = d_input = None
    if need_output:
        d_output = serving("masked_linear", grad)(input, grad, mask, None, plan)
    if need_input:
        d_input = serving("masked_linear_grad_input", grad)(grad_output, grad, mask, plan)
    return d_output, d_input, None, None


register_formula("masked_linear", linear_setup, linear_backward)
register_formula("masked_linear_grad_input", _linear_pair_setup, _linear_grad_input_backward)
register_formula("masked_linear_grad_weight", _linear_pair_setup, _linear_grad_weight_backward)


class DenseForwardLinear(torch.autograd.Function):
    """`masked_linear` computed densely.  input: (rows, C_in)."""

    @staticmethod
    def forward(input, weight, mask, bias, plan) -> Tensor:
        return reference.masked_linear(input, weight, mask, bias, None)

    setup_context = staticmethod(linear_setup)
    backward = staticmethod(linear_backward)
