"""The derivatives of masked_conv2d and of its gradients.

y = conv(x, w) is linear in x and in w, so its three ops are closed under differentiation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..bitmask import mark_on_mask
from ..lanes.convert import as_lanes, enter_lanes
from ..lanes.handlers import conv as lanes_conv
from ..lanes.tensor import LaneTensor, in_lanes
from ..parameter_masks import dense_passes_of
from ..transforms import transformed
from .registry import register_formula, serving


def in_layout_of(input: Tensor, grad: Tensor) -> Tensor:
    """Return `grad` in lanes where the forward's input was: once, for both passes."""
    if type(input) is Tensor or type(input) is torch.nn.Parameter:
        return grad
    return enter_lanes(grad) if in_lanes(input) and type(grad) is Tensor else grad


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
        run = serving("masked_conv2d_grad_input", grad, "grad_input" in ctx.dense_passes)
        grad_input = run(grad, weight, mask, plan, input_hw, *ctx.conv)
    if need_weight:
        run = serving("masked_conv2d_grad_weight", grad, "grad_weight" in ctx.dense_passes)
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
        d_output = serving("masked_conv2d", grad)(grad, weight, mask, None, plan, *ctx.conv)
    if need_weight:
        d_weight = serving("masked_conv2d_grad_weight", grad)(
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
        d_output = serving("masked_conv2d", grad)(input, grad, mask, None, plan, *ctx.conv)
    if need_input:
        input_hw = input.shape[2:]
        d_input = serving("masked_conv2d_grad_input", grad)(
            grad_output, grad, mask, plan, input_hw, *ctx.conv
        )
    return d_output, d_input, None, None, None, None, None, None


register_formula("masked_conv2d", conv_setup, conv_backward)
register_formula("masked_conv2d_relu", _conv_relu_setup, _conv_relu_backward)
register_formula("masked_conv2d_grad_input", _conv_grad_input_setup, _conv_grad_input_backward)
register_formula("masked_conv2d_grad_weight", _conv_grad_weight_setup, _conv_grad_weight_backward)


class DenseForwardConv2d(torch.autograd.Function):
    """`masked_conv2d` computed densely; a result for x in lanes goes on in lanes."""

    @staticmethod
    def forward(input, weight, mask, bias, plan, stride, padding, dilation, groups) -> Tensor:
        conv = (stride, padding, dilation, groups)
        out = reference.masked_conv2d(input, weight, mask, bias, None, *conv)
        return as_lanes(out) if isinstance(input, LaneTensor) else out

    setup_context = staticmethod(conv_setup)
    backward = staticmethod(conv_backward)


class LaneConv2d(torch.autograd.Function):
    """`masked_conv2d` of a `LaneTensor`, differentiable any number of times.

    The op itself would get to the kernels too, through torch.library's autograd and the subclass's
    dispatch: more Python for each pass of each layer, which a small network notices. And here both
    gradients are computed in one pass.
    """

    @staticmethod
    def forward(ctx, input, weight, mask, bias, plan, stride, padding, dilation, groups) -> Tensor:
        inputs = (input, weight, mask, bias, plan, stride, padding, dilation, groups)
        conv_setup(ctx, inputs, None)
        return lanes_conv.conv(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):
        input, weight, mask, plan = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.dense_passes or not in_lanes(input) or transformed(grad):
            return conv_backward(ctx, grad)
        need_input, need_weight, _, need_bias, *_ = ctx.needs_input_grad
        grad = in_layout_of(input, grad)
        grads: list[Tensor | None] = [None] * 9
        if need_input and need_weight:
            grads[:2] = lanes_conv.conv_backward(grad, input, weight, mask, plan, *ctx.conv)
        elif need_input:
            grads[0] = lanes_conv.conv_grad_input(
                grad, weight, mask, plan, input.shape[2:], *ctx.conv
            )
        elif need_weight:
            grads[1] = lanes_conv.conv_grad_weight(grad, input, mask, plan, *ctx.conv)
        if grads[1] is not None:
            mark_on_mask(grads[1], mask)
        if ctx.has_bias and need_bias:
            grads[3] = grad.sum((0, 2, 3))
        return tuple(grads)
