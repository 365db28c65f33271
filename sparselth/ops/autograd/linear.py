"""The derivatives of masked_linear and of its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..bitmask import mark_on_mask
from ..contract import OPS
from ..switches import forced, forcing
from .registry import NO_PASSES, register_formula, serving


def _gradients(ctx, grad, needs) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias, those that `needs` names, in ops again."""
    input, weight, mask, plan = ctx.saved_tensors
    need_input, need_weight, need_bias = needs
    grad_input = grad_weight = None
    if need_input:
        run = serving("masked_linear_grad_input", grad, "grad_input" in ctx.dense_passes)
        grad_input = run(grad, weight, mask, plan)
    if need_weight:
        run = serving("masked_linear_grad_weight", grad, "grad_weight" in ctx.dense_passes)
        grad_weight = mark_on_mask(run(grad, input, mask, plan), mask)
    return grad_input, grad_weight, grad.sum(0) if need_bias else None


def linear_setup(ctx, inputs, output):
    """Keep what `linear_backward` needs."""
    input, weight, mask, _, plan = inputs
    ctx.dense_passes = NO_PASSES
    ctx.save_for_backward(input, weight, mask, plan)


def linear_backward(ctx, grad):
    """Differentiate `masked_linear` with respect to input, weight and bias."""
    need_input, need_weight, _, need_bias, _ = ctx.needs_input_grad
    grads = _gradients(ctx, grad, (need_input, need_weight, need_bias))
    return grads[0], grads[1], None, grads[2], None


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


class MaskedLinear(torch.autograd.Function):
    """`masked_linear` by the choice made for it, differentiable any number of times.

    input: (rows, C_in).  dense: the passes computed densely, as of `MaskedConv2d`.
    """

    @staticmethod
    def forward(ctx, input, weight, bias, mask, plan, dense=NO_PASSES) -> Tensor:
        ctx.dense_passes, ctx.forced = dense, forced()
        ctx.save_for_backward(input, weight, mask, plan)
        if "forward" in dense:
            return reference.masked_linear(input, weight, mask, bias, None)
        with torch._C._AutoDispatchBelowAutograd():
            return OPS.masked_linear.default(input, weight, mask, bias, plan)

    @staticmethod
    def backward(ctx, grad: Tensor):
        need_input, need_weight, need_bias, *_ = ctx.needs_input_grad
        with forcing(ctx.forced):
            grads = _gradients(ctx, grad, (need_input, need_weight, need_bias))
        return (*grads, None, None, None)
