"""A masked convolution, its batch norm, a shortcut's sum and the ReLU, as one node of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import ConvSettings
from ..lanes.buffers import as_buffer
from ..lanes.handlers import conv as lanes_conv
from ..lanes.handlers import norm as lanes_norm
from ..lanes.handlers.pointwise import term
from ..lanes.tensor import LaneTensor
from ..lanes.value import Activation, Affine, AffineSum, LaneBuffer, LazyValue, MaskedGrad
from ..switches import forced, forcing
from ..transforms import transformed
from .conv import lane_gradients, of_dtype
from .registry import serving


class NormSettings(NamedTuple):
    """What `torch.nn.functional.batch_norm` is told, but for weight and bias.

    running_mean, running_var: (C,), or None.  training: whether by the statistics of the batch.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool
    momentum: float
    eps: float


class ConvNorm(torch.autograd.Function):
    """relu(batch_norm(masked_conv2d(x, w) + bias) + shortcut), of activations in lanes.

    What the modules compute one after the other, by the same kernels and to the same bits, with
    fewer calls and tensors between them: a network of small images waits for those.

    input: (N, C_in, H, W) in lanes.  weight, mask: (C_out, C_in / groups, kH, kW).  bias, gamma,
    beta: (C_out,), or None. Parameters are float32 with 16 bits in lanes, else of its dtype.
    shortcut: in lanes, of the result's shape and dtype, or None.  plan: the mask's, or None.
    norm: in training; outside of it there are no gradients.
    upper: the limit of the ReLU, NaN for none; None for no ReLU.
    moments: as of `MaskedConv2d`.
    """

    @staticmethod
    def forward(
        ctx,
        input: LaneTensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        shortcut: LaneTensor | None,
        mask: Tensor,
        plan: Tensor | None,
        conv: ConvSettings,
        norm: NormSettings,
        upper: float | None,
        moments: bool,
    ) -> LaneTensor:
        batch = input._value.batch
        y = lanes_conv.convolved(input, weight, mask, bias, plan, conv, moments)
        affine, mean, invstd = lanes_norm.normalized(y, batch, gamma, beta, *norm)
        total = AffineSum(affine, None if shortcut is None else term(shortcut))
        state = total if upper is None else Activation(total, upper)
        out = LaneTensor.make(LazyValue(state, batch), (batch, *y.image_shape()), y.data.dtype)
        ctx.conv, ctx.norm, ctx.upper, ctx.forced = conv, norm, upper, forced()
        # A ReLU's result opens it where the norm alone does not.
        gate = None if shortcut is None or upper is None else out
        given = (input, weight, bias, gamma, beta, shortcut, mask, plan)
        ctx.save_for_backward(*given, gate, y.data, affine.scale, affine.shift, mean, invstd)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled() or transformed(grad):
            with forcing(ctx.forced):
                return (*_in_ops(ctx, grad), *[None] * 6)
        input, weight, _, gamma, _, _, mask, plan, out, *statistics = ctx.saved_tensors
        data, scale, shift, mean, invstd = statistics
        need_input, need_weight, need_bias, need_gamma, need_beta, need_shortcut = (
            ctx.needs_input_grad[:6]
        )
        y, batch, upper = LaneBuffer(data, 0), input._value.batch, ctx.upper
        if upper is None:
            before, gate, limit = lanes_norm.split(grad)
        else:
            before, limit = as_buffer(grad), upper
            gate = AffineSum(Affine(y, scale, shift)) if out is None else as_buffer(out)
            if need_shortcut:
                masked = MaskedGrad(before, gate, limit)
                grad = LaneTensor.make(LazyValue(masked, batch), grad.shape, grad.dtype)
        dy, *channel = lanes_norm.norm_gradients(
            before, gate, limit, y, batch, mean, invstd, gamma, True
        )
        needs = (need_input, need_weight, need_bias)
        grads = lane_gradients(LaneTensor.of(dy, batch), input, weight, mask, plan, ctx.conv, needs)
        rest = zip((*channel, grad), (need_gamma, need_beta, need_shortcut), strict=True)
        return (*grads, *(t if need else None for t, need in rest), *[None] * 6)


def _in_ops(ctx, grad: Tensor) -> list[Tensor | None]:
    """Return the gradients in ops again, so that they can be differentiated: by going forward."""
    given: Sequence[Any] = ctx.saved_tensors[:6]
    mask, plan = ctx.saved_tensors[6:8]
    with torch.enable_grad():
        # Apart, where one tensor is given twice.
        copies: list[Any] = [None if t is None else t.clone() for t in given]
        input, weight, bias, gamma, beta, shortcut = copies
        bias = None if bias is None else of_dtype(bias, input)
        run = serving("masked_conv2d", grad)
        out: Tensor = run(input, of_dtype(weight, input), mask, bias, plan, *ctx.conv)
        out = F.batch_norm(out, None, None, gamma, beta, True, 0.0, ctx.norm.eps)
        out = out if shortcut is None else out + shortcut
        if ctx.upper is not None:
            out = F.relu(out) if ctx.upper != ctx.upper else F.hardtanh(out, 0.0, ctx.upper)
        needed = [t for t, need in zip(copies, ctx.needs_input_grad, strict=False) if need]
        found = iter(torch.autograd.grad(out, needed, grad, create_graph=True))
    return [next(found) if need else None for need in ctx.needs_input_grad[:6]]
