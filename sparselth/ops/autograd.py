"""The derivatives of the ops: formulas in ops again, in Python.

y = conv(x, w) is linear in x and in w, so its three ops are closed under differentiation: the
derivatives of grad_input and grad_weight are again masked_conv2d, grad_input and grad_weight.
Double backward (Hessian-vector products) follows without another kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl

from . import reference
from .bitmask import mark_on_mask
from .contract import NAMESPACE
from .parameter_masks import dense_passes_of
from .switches import forced, forcing
from .transforms import transformed

_ops = torch.ops.sparselth
_autograd = torch.library.Library(NAMESPACE, "IMPL")


def _register_autograd(name: str, setup, backward) -> None:
    """Differentiate an op by its formula; by the oracle's own derivatives under transforms.

    As `torch.library.register_autograd`, whose kernels would take the result for a constant in
    forward mode: without an input that requires a gradient they do not look for derivatives.
    """

    def keep(ctx, inputs, output):
        ctx.forced = forced()
        setup(ctx, inputs, output)

    def run(ctx, *grads):
        # On a GPU a backward runs in a thread of autograd's own, which has a context of its own.
        with forcing(ctx.forced):
            return backward(ctx, *grads)

    op = getattr(_ops, name).default
    by_formula = make_autograd_impl(op, Info(run, keep))

    def kernel(keyset, *args):
        if transformed():
            return getattr(reference, name)(*args)
        return by_formula(keyset, *args)

    _autograd.impl(name, kernel, "Autograd", with_keyset=True)


def _serving(name: str, grad: Tensor, dense: bool = False) -> Callable[..., Tensor]:
    """Return the sparse op `name`, or the dense computation of the same.

    Dense also where `grad` is being transformed, for a batch of gradients say.
    """
    if not dense and not transformed(grad):
        return getattr(_ops, name)
    return getattr(reference, name)


def in_layout_of(input: Tensor, grad: Tensor) -> Tensor:
    """Return `grad` in lanes where the forward's input was: once, for both passes."""
    if type(input) is Tensor or type(input) is torch.nn.Parameter:
        return grad
    from .lanes import LaneTensor, enter_lanes  # which are built on this module

    travels = isinstance(input, LaneTensor) and input.is_in_lanes()
    return enter_lanes(grad) if travels and type(grad) is Tensor else grad


def conv_setup(ctx, inputs, output):
    """Keep what `conv_backward` needs, and which of its passes are dense for this input."""
    input, weight, mask, bias, plan, *ctx.conv = inputs
    ctx.has_bias = bias is not None
    ctx.dense_passes = dense_passes_of(plan)
    ctx.save_for_backward(input, weight, mask, plan)


def conv_backward(ctx, grad):
    """Differentiate `masked_conv2d` with respect to input, weight and bias."""
    input, weight, mask, plan, *_ = ctx.saved_tensors
    need_input, need_weight, _, need_bias, *_ = ctx.needs_input_grad
    grad_input = grad_weight = grad_bias = None
    if need_input and need_weight and not ctx.dense_passes and not transformed(grad):
        grad = in_layout_of(input, grad)
    if need_input:
        input_hw = input.shape[2:]
        run = _serving("masked_conv2d_grad_input", grad, "grad_input" in ctx.dense_passes)
        grad_input = run(grad, weight, mask, plan, input_hw, *ctx.conv)
    if need_weight:
        run = _serving("masked_conv2d_grad_weight", grad, "grad_weight" in ctx.dense_passes)
        grad_weight = mark_on_mask(run(grad, input, mask, plan, *ctx.conv), mask)
    if ctx.has_bias and need_bias:
        grad_bias = grad.sum((0, 2, 3))
    return grad_input, grad_weight, None, grad_bias, None, None, None, None, None


def _conv_relu_setup(ctx, inputs, output):
    conv_setup(ctx, inputs, output)
    input, weight, mask, _, plan, *_ = inputs
    ctx.save_for_backward(input, weight, mask, plan, output)


def _conv_relu_backward(ctx, grad):
    *_, output = ctx.saved_tensors
    return conv_backward(ctx, torch.ops.aten.threshold_backward(grad, output, 0))


def _conv_grad_input_setup(ctx, inputs, output):
    grad_output, weight, mask, plan, _, *ctx.conv = inputs
    ctx.save_for_backward(grad_output, weight, mask, plan)


def _conv_grad_input_backward(ctx, grad):
    grad_output, weight, mask, plan = ctx.saved_tensors
    need_output, need_weight, *_ = ctx.needs_input_grad
    d_output = d_weight = None
    if need_output:
        d_output = _serving("masked_conv2d", grad)(grad, weight, mask, None, plan, *ctx.conv)
    if need_weight:
        d_weight = _serving("masked_conv2d_grad_weight", grad)(
            grad_output, grad, mask, plan, *ctx.conv
        )
    return d_output, d_weight, None, None, None, None, None, None, None


def _conv_grad_weight_setup(ctx, inputs, output):
    grad_output, input, mask, plan, *ctx.conv = inputs
    ctx.save_for_backward(grad_output, input, mask, plan)


def _conv_grad_weight_backward(ctx, grad):
    grad_output, input, mask, plan = ctx.saved_tensors
    need_output, need_input, *_ = ctx.needs_input_grad
    d_output = d_input = None
    if need_output:
        d_output = _serving("masked_conv2d", grad)(input, grad, mask, None, plan, *ctx.conv)
    if need_input:
        input_hw = input.shape[2:]
        d_input = _serving("masked_conv2d_grad_input", grad)(
            grad_output, grad, mask, plan, input_hw, *ctx.conv
        )
    return d_output, d_input, None, None, None, None, None, None


_register_autograd("masked_conv2d", conv_setup, conv_backward)
_register_autograd("masked_conv2d_relu", _conv_relu_setup, _conv_relu_backward)
_register_autograd("masked_conv2d_grad_input", _conv_grad_input_setup, _conv_grad_input_backward)
_register_autograd("masked_conv2d_grad_weight", _conv_grad_weight_setup, _conv_grad_weight_backward)


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
        run = _serving("masked_linear_grad_input", grad, "grad_input" in ctx.dense_passes)
        grad_input = run(grad, weight, mask, plan)
    if need_weight:
        run = _serving("masked_linear_grad_weight", grad, "grad_weight" in ctx.dense_passes)
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
        d_output = _serving("masked_linear", grad)(grad, weight, mask, None, plan)
    if need_weight:
        d_weight = _serving("masked_linear_grad_weight", grad)(grad_output, grad, mask, plan)
    return d_output, d_weight, None, None


def _linear_grad_weight_backward(ctx, grad):
    grad_output, input, mask, plan = ctx.saved_tensors
    need_output, need_input, *_ = ctx.needs_input_grad
    d_output = d_input = None
    if need_output:
        d_output = _serving("masked_linear", grad)(input, grad, mask, None, plan)
    if need_input:
        d_input = _serving("masked_linear_grad_input", grad)(grad_output, grad, mask, plan)
    return d_output, d_input, None, None


_register_autograd("masked_linear", linear_setup, linear_backward)
_register_autograd("masked_linear_grad_input", _linear_pair_setup, _linear_grad_input_backward)
_register_autograd("masked_linear_grad_weight", _linear_pair_setup, _linear_grad_weight_backward)
