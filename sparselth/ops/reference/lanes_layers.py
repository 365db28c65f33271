"""The oracle of the layers between convolutions in lanes: plain PyTorch, between two conversions.

`contract/lanes.py` says what a tensor in lanes is. Halos and spare lanes are zero going in and
coming out; activations of 16 bits are computed in float32, and rounded once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import compute_dtype
from ..lanes.layout import from_lanes, interior, to_lanes
from .lanes import computed_images


def _per_channel(values: Tensor | None, default: float) -> Tensor | float:
    return default if values is None else values.view(1, -1, 1, 1)


def lanes_batch_norm(
    input,
    batch,
    input_halo,
    weight,
    bias,
    running_mean,
    running_var,
    momentum,
    eps,
    moments,
):
    """Return mean, invstd = 1 / sqrt(Var + eps), scale = w invstd and shift = b - mean scale.

    Over images and pixels; Var over their number n, the running variance's over n - 1.
    """
    images = computed_images(input, batch, input_halo)
    count = images.numel() // images.shape[1]
    if moments is None:
        variance, mean = torch.var_mean(images, (0, 2, 3), correction=0)
    else:
        both = (moments / moments.new_tensor([1, count])).to(images.dtype)
        mean, variance = both.t().contiguous()
    invstd = (variance + eps).rsqrt()
    scale = invstd.clone() if weight is None else invstd * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
    if running_var is not None:
        running_var.lerp_(variance * count / (count - 1), momentum)
    return mean, invstd, scale, shift


def lanes_scale_add_relu(
    a, batch, a_halo, a_scale, a_shift, b, b_halo, b_scale, b_shift, relu, upper, halo
):
    """Return clamp(a a_scale + a_shift + b b_scale + b_shift, 0, upper); unclamped without relu."""
    out = computed_images(a, batch, a_halo) * _per_channel(a_scale, 1.0) + _per_channel(
        a_shift, 0.0
    )
    if b is not None:
        images = computed_images(b, batch, b_halo)
        out = out + images * _per_channel(b_scale, 1.0) + _per_channel(b_shift, 0.0)
    if relu:
        out = F.relu(out) if math.isnan(upper) else F.hardtanh(out, 0.0, upper)
    return to_lanes(out.to(a.dtype), a.shape[-1], halo)


def lanes_relu_backward_add(grad, grad_halo, gate, gate_halo, upper, other, other_halo, halo):
    """Return (0 where gate <= 0 or gate >= upper, else grad) + other."""
    inner = interior(grad, grad_halo).to(compute_dtype(grad.dtype))
    if gate is not None:
        gates = interior(gate, gate_halo)
        inner = torch.where((gates <= 0) | (gates >= upper), torch.zeros_like(inner), inner)
    if other is not None:
        inner = inner + interior(other, other_halo)
    return F.pad(inner.to(grad.dtype), (0, 0, halo, halo, halo, halo))


def lanes_batch_norm_backward(
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
    """Return dx, dw and db of batch norm for g, the gradient that the gate lets through.

    db = sum g;   dw = sum g xhat;   dx = w invstd (g - db / n - xhat dw / n), w invstd g outside
    of training;   xhat = (x - mean) invstd
    """
    if gate_scale is not None:
        scale, shift = gate_scale.view(-1, 1, 1, 1), gate_shift.view(-1, 1, 1, 1)
        gate = input.to(scale.dtype) * scale + shift  # not rounded
        gate_halo = input_halo
    masked_grad = lanes_relu_backward_add(grad, grad_halo, gate, gate_halo, upper, None, 0, 0)
    images = computed_images(input, batch, input_halo)
    grads = computed_images(masked_grad, batch, 0)
    normalized = (images - mean.view(1, -1, 1, 1)) * invstd.view(1, -1, 1, 1)
    grad_bias = grads.sum((0, 2, 3))
    grad_weight = (grads * normalized).sum((0, 2, 3))
    scale = invstd if weight is None else invstd * weight
    if training:
        count = images.numel() // images.shape[1]
        grads = grads - _per_channel(grad_bias / count, 0.0)
        grads = grads - normalized * _per_channel(grad_weight / count, 0.0)
    grad_input = grads * scale.view(1, -1, 1, 1)
    grad_input = to_lanes(grad_input.to(grad.dtype), grad.shape[-1], halo)
    return grad_input, grad_weight, grad_bias


def lanes_max_pool2d(
    input, batch, input_halo, scale, shift, relu, upper, kernel, stride, padding, halo
):
    """Return y = max over a window (r, s) of x, and r kernel_w + s of the maximum, uint8.

    x = clamp(input scale + shift, 0, upper), as it is stored; unclamped without relu
    """
    x = lanes_scale_add_relu(
        input, batch, input_halo, scale, shift, None, 0, None, None, relu, upper, 0
    )
    images = from_lanes(x, batch, 0)
    out, index = F.max_pool2d(images, kernel, stride, padding, return_indices=True)
    width = images.shape[3]
    on = out.device
    top = torch.arange(out.shape[2], device=on).view(-1, 1) * stride[0] - padding[0]
    left = torch.arange(out.shape[3], device=on) * stride[1] - padding[1]
    position = (index // width - top) * kernel[1] + index % width - left
    lanes = input.shape[-1]
    return to_lanes(out, lanes, halo), to_lanes(position.to(torch.uint8), lanes, 0)


def lanes_max_pool2d_backward(
    grad, batch, grad_halo, position, input_hw, kernel, stride, padding, halo
):
    """Return dx = the sum of grad over the windows whose maximum was at a pixel."""
    grads = computed_images(grad, batch, grad_halo)
    where = from_lanes(position, batch, 0).long()
    on = grads.device
    top = torch.arange(grads.shape[2], device=on).view(-1, 1) * stride[0] - padding[0]
    left = torch.arange(grads.shape[3], device=on) * stride[1] - padding[1]
    rows, columns = top + where // kernel[1], left + where % kernel[1]
    out = grads.new_zeros(*grads.shape[:2], input_hw[0] * input_hw[1])
    index = (rows * input_hw[1] + columns).flatten(2)
    out.scatter_add_(2, index, grads.flatten(2))
    out = out.view(*grads.shape[:2], *input_hw).to(grad.dtype)
    return to_lanes(out, grad.shape[-1], halo)
