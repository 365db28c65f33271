"""The oracle of convolutions that compute their input as they read it, one op after the other."""

from __future__ import annotations

import torch

from ..contract import compute_dtype
from ..lanes.layout import from_lanes, to_lanes
from .conv import masked_conv2d
from .lanes import lanes_conv2d_backward
from .lanes_layers import lanes_scale_add_relu


def lanes_fused_conv2d(
    a,
    batch,
    a_halo,
    a_scale,
    a_shift,
    b,
    b_halo,
    b_scale,
    b_shift,
    relu,
    upper,
    keep,
    weight,
    mask,
    bias,
    plan,
    stride,
    padding,
    dilation,
    groups,
    moments,
):
    """Return y = conv2d(x, w * mask) + bias, x, and y's mean and sum of squared distances to it.

    x = clamp(a a_scale + a_shift + b b_scale + b_shift, 0, upper); unclamped without relu
    """
    x = _computed_input(
        a, batch, a_halo, a_scale, a_shift, b, b_halo, b_scale, b_shift, relu, upper, keep
    )
    images = from_lanes(x, batch, 0).to(compute_dtype(a.dtype))
    conv = (stride, padding, dilation, groups)
    out = masked_conv2d(images, weight, mask, bias, None, *conv)
    y = to_lanes(out.to(a.dtype), a.shape[-1], 0)
    found = a.new_empty(0, 2, dtype=torch.float64)
    if moments:
        values = out.double()
        mean = values.mean((0, 2, 3))
        squares = (values - mean.view(1, -1, 1, 1)).square().sum((0, 2, 3))
        found = torch.stack([mean, squares], 1)
    return y, x if keep else a.new_empty(0, 0, 0, 0, 0), found


def lanes_fused_conv2d_backward(
    grad_output,
    grad_halo,
    a,
    batch,
    a_halo,
    a_scale,
    a_shift,
    relu,
    upper,
    weight,
    mask,
    plan,
    stride,
    padding,
    dilation,
    groups,
):
    """Return dx and dw of conv2d(x, w * mask), x = clamp(a a_scale + a_shift, 0, upper)."""
    x = _computed_input(a, batch, a_halo, a_scale, a_shift, None, 0, None, None, relu, upper, False)
    dx, dw = lanes_conv2d_backward(
        grad_output.to(x.dtype),
        grad_halo,
        x,
        batch,
        0,
        weight,
        mask,
        plan,
        stride,
        padding,
        dilation,
        groups,
    )
    return dx.to(a.dtype), dw


def _computed_input(
    a, batch, a_halo, a_scale, a_shift, b, b_halo, b_scale, b_shift, relu, upper, keep
):
    """Return x in lanes: as it is stored where it is kept, else in what it is computed in."""
    wide = a.dtype if keep else compute_dtype(a.dtype)
    second = None if b is None else b.to(wide)
    return lanes_scale_add_relu(
        a.to(wide),
        batch,
        a_halo,
        a_scale,
        a_shift,
        second,
        b_halo,
        b_scale,
        b_shift,
        relu,
        upper,
        0,
    )
