"""The contract of the ops on activations in lanes: schemas and fake kernels.

The layout stands in `lanes/layout.py`. These ops run below autograd, inside the modules that
hand activations in lanes on, so they have no formulas of their own. Every tensor in lanes comes
with its halo; results of convolutions have none, the others the `halo` asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import output_size
from .registry import CONV, define, fake

SCHEMAS: dict[str, str] = {
    "to_lanes": "(Tensor input, int lanes, int halo) -> Tensor",
    "from_lanes": "(Tensor input, int batch, int halo) -> Tensor",
    "lanes_conv2d": (
        "(Tensor input, int batch, int input_halo, Tensor weight, Tensor mask, Tensor? bias, "
        f"Tensor? plan, {CONV}) -> Tensor"
    ),
    "lanes_conv2d_grad_input": (
        "(Tensor grad_output, int batch, int grad_halo, Tensor weight, Tensor mask, Tensor? plan, "
        f"int[2] input_hw, {CONV}) -> Tensor"
    ),
    "lanes_conv2d_grad_weight": (
        "(Tensor grad_output, int grad_halo, Tensor input, int batch, int input_halo, "
        f"Tensor mask, Tensor? plan, {CONV}) -> Tensor"
    ),
    # Both gradients, of input and weight, in one pass over grad_output.
    "lanes_conv2d_backward": (
        "(Tensor grad_output, int grad_halo, Tensor input, int batch, int input_halo, "
        f"Tensor weight, Tensor mask, Tensor? plan, {CONV}) -> (Tensor, Tensor)"
    ),
    # A training batch's mean, invstd, scale and shift per channel, (C,) each: the norm's result is
    # input * scale + shift. Running statistics are updated, the variance's without bias.
    "lanes_batch_norm": (
        "(Tensor input, int batch, int input_halo, Tensor? weight, Tensor? bias, "
        "Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum, float eps) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    ),
    # relu?(a * a_scale + a_shift + b * b_scale + b_shift), scales and shifts per channel. A ReLU
    # also cuts at `upper`, there and below, unless that is NaN: ReLU6.
    "lanes_scale_add_relu": (
        "(Tensor a, int batch, int a_halo, Tensor? a_scale, Tensor? a_shift, Tensor? b, "
        "int b_halo, Tensor? b_scale, Tensor? b_shift, bool relu, float upper, int halo) -> Tensor"
    ),
    # (0 where gate <= 0 or gate >= upper else grad) + other: the backward of a ReLU whose result
    # was `gate`.
    "lanes_relu_backward_add": (
        "(Tensor grad, int grad_halo, Tensor? gate, int gate_halo, float upper, Tensor? other, "
        "int other_halo, int halo) -> Tensor"
    ),
    # Gradients of batch norm's input, weight and bias; `gate` as above, for a ReLU after it, or
    # gate = input * gate_scale + gate_shift, per channel, which saves reading it.
    # training: mean and invstd are the batch's own, and the gradient goes through them.
    "lanes_batch_norm_backward": (
        "(Tensor grad, int grad_halo, Tensor? gate, int gate_halo, Tensor? gate_scale, "
        "Tensor? gate_shift, float upper, Tensor input, int batch, int input_halo, "
        "Tensor mean, Tensor invstd, Tensor? weight, bool training, int halo) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    # The maximum and, as uint8 without halo, its position in the window.
    "lanes_max_pool2d": (
        "(Tensor input, int batch, int input_halo, int[2] kernel, int[2] stride, "
        "int[2] padding, int halo) -> (Tensor, Tensor)"
    ),
    "lanes_max_pool2d_backward": (
        "(Tensor grad, int batch, int grad_halo, Tensor position, int[2] input_hw, "
        "int[2] kernel, int[2] stride, int[2] padding, int halo) -> Tensor"
    ),
}

define(SCHEMAS)


def _lanes_like(input: Tensor, channels: int, height: int, width: int, halo: int) -> Tensor:
    bundles, *_, lanes = input.shape
    return input.new_empty(bundles, channels, height + 2 * halo, width + 2 * halo, lanes)


def _with_halo(input: Tensor, halo: int, new_halo: int) -> Tensor:
    _, channels, rows, columns, _ = input.shape
    return _lanes_like(input, channels, rows - 2 * halo, columns - 2 * halo, new_halo)


@fake("to_lanes")
def _(input, lanes, halo):
    batch, channels, height, width = input.shape
    bundles = (batch + lanes - 1) // lanes
    return input.new_empty(bundles, channels, height + 2 * halo, width + 2 * halo, lanes)


@fake("from_lanes")
def _(input, batch, halo):
    _, channels, rows, columns, _ = input.shape
    return input.new_empty(batch, channels, rows - 2 * halo, columns - 2 * halo)


@fake("lanes_conv2d")
def _(input, batch, input_halo, weight, mask, bias, plan, stride, padding, dilation, groups):
    inner = _with_halo(input, input_halo, 0)
    height, width = (
        output_size(inner.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    return _lanes_like(input, weight.shape[0], height, width, 0)


@fake("lanes_conv2d_grad_input")
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
    return _lanes_like(grad_output, weight.shape[1] * groups, height, width, 0)


@fake("lanes_conv2d_grad_weight")
def _(
    grad_output,
    grad_halo,
    input,
    batch,
    input_halo,
    mask,
    plan,
    stride,
    padding,
    dilation,
    groups,
):
    return input.new_empty(mask.shape)


@fake("lanes_conv2d_backward")
def _(
    grad_output,
    grad_halo,
    input,
    batch,
    input_halo,
    weight,
    mask,
    plan,
    stride,
    padding,
    dilation,
    groups,
):
    return _with_halo(input, input_halo, 0), input.new_empty(mask.shape)


@fake("lanes_batch_norm")
def _(input, batch, input_halo, weight, bias, running_mean, running_var, momentum, eps):
    return tuple(input.new_empty(input.shape[1]) for _ in range(4))


@fake("lanes_scale_add_relu")
def _(a, batch, a_halo, a_scale, a_shift, b, b_halo, b_scale, b_shift, relu, upper, halo):
    return _with_halo(a, a_halo, halo)


@fake("lanes_relu_backward_add")
def _(grad, grad_halo, gate, gate_halo, upper, other, other_halo, halo):
    return _with_halo(grad, grad_halo, halo)


@fake("lanes_batch_norm_backward")
def _(
    grad,
    grad_halo,
    gate,
    gate_halo,
    gate_scale,
    gate_shift,
    upper,
    input,
    batch,
    input_halo,
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


@fake("lanes_max_pool2d")
def _(input, batch, input_halo, kernel, stride, padding, halo):
    inner = _with_halo(input, input_halo, 0)
    height, width = (
        output_size(inner.shape[2 + i], kernel[i], stride[i], padding[i], 1) for i in range(2)
    )
    out = _lanes_like(input, input.shape[1], height, width, halo)
    position = _lanes_like(input, input.shape[1], height, width, 0)
    return out, position.to(torch.uint8)


@fake("lanes_max_pool2d_backward")
def _(grad, batch, grad_halo, position, input_hw, kernel, stride, padding, halo):
    height, width = input_hw
    return _lanes_like(grad, grad.shape[1], height, width, halo)
