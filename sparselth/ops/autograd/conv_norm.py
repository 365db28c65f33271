"""Masked convolutions, each with its batch norm and ReLU, in a row, as one node of autograd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import ConvSettings
from ..lanes.buffers import as_buffer
from ..lanes.handlers import conv as lanes_conv
from ..lanes.handlers import norm as lanes_norm
from ..lanes.handlers.pointwise import added, term
from ..lanes.tensor import LaneTensor
from ..lanes.value import (
    NO_LIMIT,
    Activation,
    Affine,
    AffineSum,
    LaneBuffer,
    LazyValue,
    MaskedGrad,
)
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


class Link(NamedTuple):
    """relu(batch_norm(masked_conv2d(x, w) + bias)), but for what has gradients.

    mask: (C_out, C_in / groups, kH, kW).  plan: the mask's, or None.  conv: as of `MaskedConv2d`.
    norm: in training; outside of it there are no gradients.
    upper: the limit of the ReLU, NaN for none; None for no ReLU.
    moments: as of `MaskedConv2d`.
    """

    mask: Tensor
    plan: Tensor | None
    conv: ConvSettings
    norm: NormSettings
    upper: float | None
    moments: bool


class _Saved(NamedTuple):
    """What the backward needs of a link: its parameters, which are first, and what was computed."""

    weight: Tensor
    bias: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    mask: Tensor
    y: Tensor  # the data of the convolution's result, without a halo
    scale: Tensor
    shift: Tensor
    mean: Tensor
    invstd: Tensor

    def normalized(self) -> AffineSum:
        """Return the norm's result, not computed."""
        return AffineSum(Affine(LaneBuffer(self.y, 0), self.scale, self.shift))


_PARAMETERS, _SAVED = 4, len(_Saved._fields)

# The fields of `MaskedGrad`; no gate where there is no ReLU.
_Gated = tuple[LaneBuffer, LaneBuffer | AffineSum | None, float]


class ConvNorms(torch.autograd.Function):
    """Links one after the other, with a shortcut added before the ReLU of the last, in lanes.

    What the modules compute one by one, by the same kernels and to the same bits, with fewer calls
    and tensors between them: what those cost does not depend on the size of the images, and every
    kernel drives what Python needs out of the caches.

    input: x (N, C_in, H, W) in lanes.
    shortcut: in lanes, of the result's shape and dtype, or None.
    adds_input: whether x is the shortcut, which is None then.
    parameters: of each link weight (C_out, C_in / groups, kH, kW), bias, gamma and beta (C_out,) or
    None; float32 with 16 bits in lanes, else of the input's dtype.
    """

    @staticmethod
    def forward(
        ctx,
        input: LaneTensor,
        shortcut: LaneTensor | None,
        adds_input: bool,
        links: tuple[Link, ...],
        *parameters: Tensor | None,
    ) -> LaneTensor:
        value, dtype, batch = input._value, input.dtype, input._value.batch
        second = input if adds_input else shortcut
        saved: list[Tensor | None] = []
        for link, given in zip(links, _in_parts(parameters, _PARAMETERS), strict=True):
            weight, bias, gamma, beta = given
            y = lanes_conv.convolved(
                value, dtype, weight, link.mask, bias, link.plan, link.conv, link.moments
            )
            affine, mean, invstd = lanes_norm.normalized(y, batch, gamma, beta, *link.norm)
            adds = second if link is links[-1] else None
            total = AffineSum(affine, None if adds is None else term(adds))
            value = LazyValue(_activation(total, link.upper), batch)
            saved += [*given, link.mask, y.data, affine.scale, affine.shift, mean, invstd]
        out = LaneTensor.make(value, (batch, *y.image_shape()), dtype)
        # A ReLU's result opens it where the norm alone does not.
        gate = None if second is None or links[-1].upper is None else out
        ctx.links, ctx.adds_input, ctx.forced = links, adds_input, forced()
        ctx.save_for_backward(input, shortcut, gate, *saved)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled() or transformed(grad):
            with forcing(ctx.forced):
                return _in_ops(ctx, grad)
        need_input, need_shortcut, _, _, *needs = ctx.needs_input_grad
        input, _, result, *tensors = ctx.saved_tensors
        links, saved = ctx.links, [_Saved(*part) for part in _in_parts(tensors, _SAVED)]
        batch = input._value.batch
        gated = _at_the_last(grad, links[-1].upper, saved[-1], result)
        if links[-1].upper is not None and (need_shortcut or ctx.adds_input):
            masked: Any = MaskedGrad(*gated)  # type: ignore[arg-type]
            grad = LaneTensor.make(LazyValue(masked, batch), grad.shape, grad.dtype)
        found: list[Tensor | None] = [None] * len(needs)
        dx = None
        for place in reversed(range(len(links))):
            begin, end = _PARAMETERS * place, _PARAMETERS * (place + 1)
            if dx is not None:
                gated = _gated(dx, links[place].upper, saved[place])
            value, input_hw = input._value, input.shape[2:]
            if place > 0:
                before = saved[place - 1]
                value = LazyValue(_activation(before.normalized(), links[place - 1].upper), batch)
                input_hw = before.y.shape[2:4]
            wanted = (need_input or any(needs[:begin]), *needs[begin:end])
            dx, *found[begin:end] = _link_gradients(
                gated, value, input_hw, links[place], saved[place], wanted
            )
            if dx is None:
                break
        into_input = None if dx is None else LaneTensor.of(dx, batch)
        if into_input is not None and ctx.adds_input:
            into_input = input.like(added(grad, into_input))
        return into_input, grad if need_shortcut else None, None, None, *found


def _in_parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[at : at + size] for at in range(0, len(values), size))


def _activation(total: AffineSum, upper: float | None) -> AffineSum | Activation:
    return total if upper is None else Activation(total, upper)


def _gated(grad: LaneBuffer, upper: float | None, saved: _Saved) -> _Gated:
    """Return the gradient of a link's result as its norm is to take it."""
    return (grad, None, NO_LIMIT) if upper is None else (grad, saved.normalized(), upper)


def _at_the_last(
    grad: Tensor, upper: float | None, saved: _Saved, result: LaneTensor | None
) -> _Gated:
    """Return the same at the last link, where a shortcut was added if there is a `result`."""
    if upper is None:
        return lanes_norm.split(grad)
    if result is None:
        return _gated(as_buffer(grad), upper, saved)
    return as_buffer(grad), as_buffer(result), upper


def _link_gradients(
    gated: _Gated,
    value: LazyValue,
    input_hw: Sequence[int],
    link: Link,
    saved: _Saved,
    needs: Sequence[bool],
) -> tuple[Any, ...]:
    """Return the gradients of a link's input, as a buffer, and of its parameters.

    value: the input; input_hw: its (H, W).  needs: which of the five are wanted; None the others.
    """
    dy, *channel = lanes_norm.norm_gradients(
        *(*gated, LaneBuffer(saved.y, 0), value.batch, saved.mean, saved.invstd, saved.gamma, True)
    )
    own = lane_gradients(
        dy, value, input_hw, saved.weight, saved.mask, link.plan, link.conv, needs[:3]
    )
    return tuple(g if want else None for g, want in zip((*own, *channel), needs, strict=True))


def _in_ops(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients in ops again, so that they can be differentiated: by going forward."""
    input, shortcut, _, *tensors = ctx.saved_tensors
    parameters = [t for part in _in_parts(tensors, _SAVED) for t in part[:_PARAMETERS]]
    with torch.enable_grad():
        # Apart, where one tensor is given twice.
        copies: list[Any] = [
            None if t is None else t.clone() for t in (input, shortcut, *parameters)
        ]
        out, second, *own = copies
        second = out if ctx.adds_input else second
        run = serving("masked_conv2d", grad)
        for link, given in zip(ctx.links, _in_parts(own, _PARAMETERS), strict=True):
            weight, bias, gamma, beta = given
            bias = None if bias is None else of_dtype(bias, out)
            out = run(out, of_dtype(weight, out), link.mask, bias, link.plan, *link.conv)
            out = F.batch_norm(out, None, None, gamma, beta, True, 0.0, link.norm.eps)
            if second is not None and link is ctx.links[-1]:
                out = out + second
            if link.upper is not None:
                out = F.relu(out) if link.upper != link.upper else F.hardtanh(out, 0.0, link.upper)
        needs = [*ctx.needs_input_grad[:2], *ctx.needs_input_grad[4:]]
        needed = [t for t, need in zip(copies, needs, strict=True) if need]
        found = iter(torch.autograd.grad(out, needed, grad, create_graph=True))
    of_input, of_shortcut, *rest = (next(found) if need else None for need in needs)
    return of_input, of_shortcut, None, None, *rest
