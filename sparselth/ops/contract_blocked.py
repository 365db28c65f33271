"""The contract of the ops on blocked activations: schemas and fake kernels.

The layout stands in `blocked_layout.py`. These ops run below autograd, inside the modules that
hand blocked activations on, so they have no formulas of their own. Every blocked tensor comes
with its halo; results of convolutions have none, the others the `halo` asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import CONV, define, fake, output_size

BLOCKED_SCHEMAS: dict[str, str] = {
    "to_blocked": "(Tensor input, int lanes, int halo) -> Tensor",
    "from_blocked": "(Tensor blocked, int batch, int halo) -> Tensor",
    "blocked_conv2d": (
        "(Tensor blocked, int batch, int blocked_halo, Tensor weight, Tensor mask, Tensor? bias, "
        f"Tensor? plan, {CONV}) -> Tensor"
    ),
    "blocked_conv2d_grad_input": (
        "(Tensor grad_output, int batch, int grad_halo, Tensor weight, Tensor mask, Tensor? plan, "
        f"int[2] input_hw, {CONV}) -> Tensor"
    ),
    "blocked_conv2d_grad_weight": (
        "(Tensor grad_output, int grad_halo, Tensor blocked, int batch, int blocked_halo, "
        f"Tensor mask, Tensor? plan, {CONV}) -> Tensor"
    ),
    # Both gradients, of input and weight, in one pass over grad_output.
    "blocked_conv2d_backward": (
        "(Tensor grad_output, int grad_halo, Tensor blocked, int batch, int blocked_halo, "
        f"Tensor weight, Tensor mask, Tensor? plan, {CONV}) -> (Tensor, Tensor)"
    ),
    # A training batch's mean, invstd, scale and shift per channel, (C,) each: the norm's result is
    # blocked * scale + shift. Running statistics are updated, the variance's without bias.
    "blocked_batch_norm": (
        "(Tensor blocked, int batch, int blocked_halo, Tensor? weight, Tensor? bias, "
        "Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum, float eps) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    ),
    # relu?(a * a_scale + a_shift + b * b_scale + b_shift), scales and shifts per channel. A ReLU
    # also cuts at `upper`, there and below, unless that is NaN: ReLU6.
    "blocked_scale_add_relu": (
        "(Tensor a, int batch, int a_halo, Tensor? a_scale, Tensor? a_shift, Tensor? b, "
        "int b_halo, Tensor? b_scale, Tensor? b_shift, bool relu, float upper, int halo) -> Tensor"
    ),
    # (0 where gate <= 0 or gate >= upper else grad) + other: the backward of a ReLU whose result
    # was `gate`.
    "blocked_relu_backward_add": (
        "(Tensor grad, int grad_halo, Tensor? gate, int gate_halo, float upper, Tensor? other, "
        "int other_halo, int halo) -> Tensor"
    ),
    # Gradients of batch norm's input, weight and bias; `gate` as above, for a ReLU after it, or
    # gate = blocked * gate_scale + gate_shift, per channel, which saves reading it.
    # training: mean and invstd are the batch's own, and the gradient goes through them.
    "blocked_batch_norm_backward": (
        "(Tensor grad, int grad_halo, Tensor? gate, int gate_halo, Tensor? gate_scale, "
        "Tensor? gate_shift, float upper, Tensor blocked, int batch, int blocked_halo, "
        "Tensor mean, Tensor invstd, Tensor? weight, bool training, int halo) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    # The maximum and, as uint8 without halo, its position in the window.
    "blocked_max_pool2d": (
        "(Tensor blocked, int batch, int blocked_halo, int[2] kernel, int[2] stride, "
        "int[2] padding, int halo) -> (Tensor, Tensor)"
    ),
    "blocked_max_pool2d_backward": (
        "(Tensor grad, int batch, int grad_halo, Tensor position, int[2] input_hw, "
        "int[2] kernel, int[2] stride, int[2] padding, int halo) -> Tensor"
    ),
}

define(BLOCKED_SCHEMAS)


def _blocked_like(blocked: Tensor, channels: int, height: int, width: int, halo: int) -> Tensor:
    blocks, *_, lanes = blocked.shape
    return blocked.new_empty(blocks, channels, height + 2 * halo, width + 2 * halo, lanes)


def _with_halo(blocked: Tensor, halo: int, new_halo: int) -> Tensor:
    _, channels, rows, columns, _ = blocked.shape
    return _blocked_like(blocked, channels, rows - 2 * halo, columns - 2 * halo, new_halo)


@fake("to_blocked")
def _(input, lanes, halo):
    batch, channels, height, width = input.shape
    blocks = (batch + lanes - 1) // lanes
    return input.new_empty(blocks, channels, height + 2 * halo, width + 2 * halo, lanes)


@fake("from_blocked")
def _(blocked, batch, halo):
    _, channels, rows, columns, _ = blocked.shape
    return blocked.new_empty(batch, channels, rows - 2 * halo, columns - 2 * halo)


@fake("blocked_conv2d")
def _(blocked, batch, blocked_halo, weight, mask, bias, plan, stride, padding, dilation, groups):
    inner = _with_halo(blocked, blocked_halo, 0)
    height, width = (
        output_size(inner.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    return _blocked_like(blocked, weight.shape[0], height, width, 0)


@fake("blocked_conv2d_grad_input")
def _(
    grad_output,
    batch,
    grad_halo,
    weight,
    mask,
    plan,
    input_hw,
    stride,
    padding,
    dilation,
    groups,
):
    height, width = input_hw
    return _blocked_like(grad_output, weight.shape[1] * groups, height, width, 0)


@fake("blocked_conv2d_grad_weight")
def _(
    grad_output,
    grad_halo,
    blocked,
    batch,
    blocked_halo,
    mask,
    plan,
    stride,
    padding,
    dilation,
    groups,
):
    return blocked.new_empty(mask.shape)


@fake("blocked_conv2d_backward")
def _(
    grad_output,
    grad_halo,
    blocked,
    batch,
    blocked_halo,
    weight,
    mask,
    plan,
    stride,
    padding,
    dilation,
    groups,
):
    return _with_halo(blocked, blocked_halo, 0), blocked.new_empty(mask.shape)


@fake("blocked_batch_norm")
def _(blocked, batch, blocked_halo, weight, bias, running_mean, running_var, momentum, eps):
    return tuple(blocked.new_empty(blocked.shape[1]) for _ in range(4))


@fake("blocked_scale_add_relu")
def _(a, batch, a_halo, a_scale, a_shift, b, b_halo, b_scale, b_shift, relu, upper, halo):
    return _with_halo(a, a_halo, halo)


@fake("blocked_relu_backward_add")
def _(grad, grad_halo, gate, gate_halo, upper, other, other_halo, halo):
    return _with_halo(grad, grad_halo, halo)


@fake("blocked_batch_norm_backward")
def _(
    grad,
    grad_halo,
    gate,
    gate_halo,
    gate_scale,
    gate_shift,
    upper,
    blocked,
    batch,
    blocked_halo,
    mean,
    invstd,
    weight,
    training,
    halo,
):
    channels = mean.shape[0]
    return (
        _with_halo(grad, grad_halo, halo),
        grad.new_empty(channels),
        grad.new_empty(channels),
    )


@fake("blocked_max_pool2d")
def _(blocked, batch, blocked_halo, kernel, stride, padding, halo):
    inner = _with_halo(blocked, blocked_halo, 0)
    height, width = (
        output_size(inner.shape[2 + i], kernel[i], stride[i], padding[i], 1) for i in range(2)
    )
    out = _blocked_like(blocked, blocked.shape[1], height, width, halo)
    position = _blocked_like(blocked, blocked.shape[1], height, width, 0)
    return out, position.to(torch.uint8)


@fake("blocked_max_pool2d_backward")
def _(grad, batch, grad_halo, position, input_hw, kernel, stride, padding, halo):
    height, width = input_hw
    return _blocked_like(grad, grad.shape[1], height, width, halo)
