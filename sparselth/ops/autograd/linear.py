"""The derivatives of masked_linear and of its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..bitmask import mark_on_mask
from ..contract import OPS, compute_dtype
from ..switches import forced, forcing
from .registry import NO_PASSES, of_dtype, register_formula, serving


def _taken(parameter: Tensor, x: Tensor) -> Tensor:
    """Return a weight or bias as the ops take it: of x's dtype, or of what x is computed in."""
    wide = compute_dtype(x.dtype)
    return parameter if parameter.dtype in (x.dtype, wide) else parameter.to(wide)


def _gradients(ctx, grad, needs) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias, those that `needs` names, in ops again."""
    input, weight, mask, plan = ctx.saved_tensors
    need_input, need_weight, need_bias = needs
    grad_input = grad_weight = None
    if need_input:
        dense = "grad_input" in ctx.dense_passes
        run = serving("masked_linear_grad_input", grad, dense)
        taken = of_dtype(weight, grad) if dense else _taken(weight, grad)
        grad_input = run(grad, taken, mask, plan)
    if need_weight:
        dense = "grad_weight" in ctx.dense_passes
        run = serving("masked_linear_grad_weight", grad, dense)
        grad_weight = run(grad, input, mask, plan, not dense and weight.dtype != grad.dtype)
        grad_weight = mark_on_mask(grad_weight.to(weight.dtype), mask)
    return grad_input, grad_weight, grad.sum(0, dtype=ctx.bias_dtype) if need_bias else None


def linear_setup(ctx, inputs, output):
    """Keep what `linear_backward` needs."""
    input, weight, mask, bias, plan = inputs
    ctx.dense_passes, ctx.bias_dtype = NO_PASSES, None if bias is None else bias.dtype
    ctx.save_for_backward(input, weight, mask, plan)


def linear_backward(ctx, grad):
    """Differentiate `masked_linear` with respect to input, weight and bias."""
    need_input, need_weight, _, need_bias, _ = ctx.needs_input_grad
    grads = _gradients(ctx, grad, (need_input, need_weight, need_bias))
    return grads[0], grads[1], None, grads[2], None


def _linear_pair_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])


def _linear_grad_input_backward(ctx, grad):
    grad_output, weight, mask, plan = ctx.saved_tensors
    need_output, need_weight, *_ = ctx.needs_input_grad
    d_output = d_weight = None
    if need_output:
        d_output = serving("masked_linear", grad)(grad, weight, mask, None, plan)
    if need_weight:
        run, wide = serving("masked_linear_grad_weight", grad), weight.dtype != grad.dtype
        d_weight = run(grad_output, grad, mask, plan, wide)
    return d_output, d_weight, None, None


def _linear_grad_weight_backward(ctx, grad):
    grad_output, input, mask, plan = ctx.saved_tensors
    need_output, need_input, *_ = ctx.needs_input_grad
    d_output = d_input = None
    if need_output:
        d_output = serving("masked_linear", grad)(input, grad, mask, None, plan)
    if need_input:
        d_input = serving("masked_linear_grad_input", grad)(grad_output, grad, mask, plan)
    return d_output, d_input, None, None, None


register_formula("masked_linear", linear_setup, linear_backward)
register_formula("masked_linear_grad_input", _linear_pair_setup, _linear_grad_input_backward)
register_formula("masked_linear_grad_weight", _linear_pair_setup, _linear_grad_weight_backward)


class MaskedLinear(torch.autograd.Function):
    """`masked_linear` by the choice made for it, differentiable any number of times.

    input: (rows, C_in).  weight, mask: (C_out, C_in).  bias: (C_out,), or None. With an input of 16
    bits they may be float32, and then so are their gradients; dense passes round them.
    dense: the passes computed densely, as of `MaskedConv2d`.
    """

    @staticmethod
    def forward(ctx, input, weight, bias, mask, plan, dense=NO_PASSES) -> Tensor:
        ctx.dense_passes, ctx.forced = dense, forced()
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(input, weight, mask, plan)
        fitted = of_dtype if "forward" in dense else _taken
        weight, bias = fitted(weight, input), None if bias is None else fitted(bias, input)
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
