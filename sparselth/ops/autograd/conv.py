"""The derivatives of masked_conv2d and of its gradients.

y = conv(x, w) is linear in x and in w, so its three ops are closed under differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..bitmask import mark_on_mask
from ..contract import OPS, ConvSettings
from ..lanes.buffers import as_buffer
from ..lanes.convert import as_lanes, enter_lanes
from ..lanes.handlers import conv as lanes_conv
from ..lanes.tensor import LaneTensor, in_lanes
from ..lanes.value import LaneBuffer, LazyValue
from ..switches import forced, forcing
from ..transforms import transformed
from .registry import NO_PASSES, of_dtype, register_formula, serving


def in_layout_of(input: Tensor, grad: Tensor) -> Tensor:
    """Return `grad` in lanes where the forward's input was: once, for both passes."""
    if type(input) is Tensor or type(input) is torch.nn.Parameter:
        return grad
    return enter_lanes(grad) if in_lanes(input) and type(grad) is Tensor else grad


def _gradients(ctx, grad, needs) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias, those that `needs` names, in ops again."""
    input, weight, mask, plan, *_ = ctx.saved_tensors
    weight = of_dtype(weight, grad)
    need_input, need_weight, need_bias = needs
    grad_input = grad_weight = grad_bias = None
    if need_input and need_weight and not ctx.dense_passes and not transformed(grad):
        grad = in_layout_of(input, grad)
    if need_input:
        run = serving("masked_conv2d_grad_input", grad, "grad_input" in ctx.dense_passes)
        grad_input = run(grad, weight, mask, plan, input.shape[2:], *ctx.conv)
    if need_weight:
        run = serving("masked_conv2d_grad_weight", grad, "grad_weight" in ctx.dense_passes)
        grad_weight = mark_on_mask(run(grad, input, mask, plan, *ctx.conv), mask)
    if need_bias:
        grad_bias = grad.sum((0, 2, 3))
    return grad_input, grad_weight, grad_bias


def _conv_setup(ctx, inputs, output):
    input, weight, mask, _, plan, *ctx.conv = inputs
    ctx.dense_passes = NO_PASSES
    ctx.save_for_backward(input, weight, mask, plan)


def _conv_backward(ctx, grad):
    need_input, need_weight, _, need_bias, *_ = ctx.needs_input_grad
    grads = _gradients(ctx, grad, (need_input, need_weight, need_bias))
    return grads[0], grads[1], None, grads[2], None, None, None, None, None


def _conv_relu_setup(ctx, inputs, output):
    _conv_setup(ctx, inputs, output)
    input, weight, mask, _, plan, *_ = inputs
    ctx.save_for_backward(input, weight, mask, plan, output)


def _conv_relu_backward(ctx, grad):
    *_, output = ctx.saved_tensors
    return _conv_backward(ctx, torch.ops.aten.threshold_backward(grad, output, 0))


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


register_formula("masked_conv2d", _conv_setup, _conv_backward)
register_formula("masked_conv2d_relu", _conv_relu_setup, _conv_relu_backward)
register_formula("masked_conv2d_grad_input", _conv_grad_input_setup, _conv_grad_input_backward)
register_formula("masked_conv2d_grad_weight", _conv_grad_weight_setup, _conv_grad_weight_backward)


class MaskedConv2d(torch.autograd.Function):
    """`masked_conv2d` by the choice made for it, differentiable any number of times.

    input: (N, C_in, H, W), plain or in lanes, and so is the result.  weight, mask: (C_out, C_in /
    groups, kH, kW); with 16 bits in lanes the weight may be float32.  bias: (C_out,), or None.
    plan: the mask's, or None.  All of them checked.
    conv: stride, padding and dilation in pairs, and groups.
    dense: the passes computed densely, of "forward", "grad_input" and "grad_weight".
    moments: whether a batch norm is expected to ask for the statistics of the result.

    The op itself would get to the kernels too, through torch.library's autograd and the dispatch of
    lane tensors: more Python for each pass of each layer, which a small network notices. And here
    both gradients of a tensor in lanes are computed in one pass.
    """

    @staticmethod
    def forward(
        ctx, input, weight, bias, mask, plan, conv: ConvSettings, dense=NO_PASSES, moments=False
    ) -> Tensor:
        ctx.conv, ctx.dense_passes, ctx.forced = conv, dense, forced()
        ctx.save_for_backward(input, weight, mask, plan)
        if "forward" in dense:
            bias = None if bias is None else of_dtype(bias, input)
            out = reference.masked_conv2d(input, of_dtype(weight, input), mask, bias, None, *conv)
            return as_lanes(out) if isinstance(input, LaneTensor) else out
        if in_lanes(input):
            return lanes_conv.conv(input, weight, mask, bias, plan, *conv, moments)
        with torch._C._AutoDispatchBelowAutograd():
            return OPS.masked_conv2d.default(input, weight, mask, bias, plan, *conv)

    @staticmethod
    def backward(ctx, grad: Tensor):
        need_input, need_weight, need_bias, *_ = ctx.needs_input_grad
        needs = (need_input, need_weight, need_bias)
        if ctx.forced is forced():
            grads = _fused_gradients(ctx, grad, needs)
        else:  # in a thread of autograd's own, as on a GPU, which has a context of its own
            with forcing(ctx.forced):
                grads = _fused_gradients(ctx, grad, needs)
        return (*grads, None, None, None, None, None)


def _fused_gradients(ctx, grad, needs) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return `_gradients`, in one pass where everything is in lanes and once is enough."""
    if torch.is_grad_enabled() or ctx.dense_passes or transformed(grad):
        return _gradients(ctx, grad, needs)
    input, weight, mask, plan = ctx.saved_tensors
    if not in_lanes(input):
        return _gradients(ctx, grad, needs)
    value, input_hw = input._value, input.shape[2:]
    dx, dw, db = lane_gradients(
        as_buffer(grad), value, input_hw, weight, mask, plan, ctx.conv, needs
    )
    return None if dx is None else LaneTensor.of(dx, value.batch), dw, db


def lane_gradients(
    grad: LaneBuffer,
    value: LazyValue,
    input_hw: Sequence[int],
    weight: Tensor,
    mask: Tensor,
    plan: Tensor | None,
    conv: ConvSettings,
    needs: Sequence[bool],
) -> tuple[LaneBuffer | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias, those that `needs` names, in one pass.

    The arguments are those of `handlers.conv.conv_gradients`.
    """
    dx, dw = lanes_conv.conv_gradients(grad, value, input_hw, weight, mask, plan, conv, needs[:2])
    if dw is not None:
        mark_on_mask(dw, mask)
    return dx, dw, lanes_conv.channel_sums(grad) if needs[2] else None
