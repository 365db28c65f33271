"""The oracle of the layout in lanes and of convolutions in it: plain PyTorch, between conversions.

`contract/lanes.py` says what a tensor in lanes is. Halos and spare lanes are zero going in and
coming out; activations of 16 bits are computed in float32, and rounded once. The conversions
themselves, `to_lanes` and `from_lanes`, stand in `lanes/layout.py`.
"""

from __future__ import annotations

from torch import Tensor

from ..contract import compute_dtype, like_weight
from ..lanes.layout import from_lanes, to_lanes
from .conv import masked_conv2d, masked_conv2d_grad_input, masked_conv2d_grad_weight


def computed_images(input: Tensor, batch: int, halo: int) -> Tensor:
    """Return the images of a tensor in lanes in the dtype that they are computed in."""
    return from_lanes(input, batch, halo).to(compute_dtype(input.dtype))


def lanes_conv2d(
    input, batch, input_halo, weight, mask, bias, plan, stride, padding, dilation, groups
):
    """Return conv2d(x, w * mask) + bias, of x in lanes and in lanes."""
    images = computed_images(input, batch, input_halo)
    conv = (stride, padding, dilation, groups)
    out = masked_conv2d(images, weight, mask, bias, None, *conv)
    return to_lanes(out.to(input.dtype), input.shape[-1], 0)


def lanes_conv2d_grad_input(
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
    """Return dx of `lanes_conv2d`: the transposed convolution of dy by w * mask, in lanes."""
    images = computed_images(grad_output, batch, grad_halo)
    conv = (stride, padding, dilation, groups)
    out = masked_conv2d_grad_input(images, weight, mask, None, input_hw, *conv)
    return to_lanes(out.to(grad_output.dtype), grad_output.shape[-1], 0)


def lanes_conv2d_grad_weight(
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
    """Return dw of `lanes_conv2d`: mask * (x correlated with dy), a weight as it is."""
    grad = computed_images(grad_output, batch, grad_halo)
    images = computed_images(input, batch, input_halo)
    conv = (stride, padding, dilation, groups)
    return masked_conv2d_grad_weight(grad, images, mask, None, *conv)


def lanes_conv2d_backward(
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
    """Return dx and dw of `lanes_conv2d`, each by its own oracle."""
    conv = (stride, padding, dilation, groups)
    hw = [size - 2 * input_halo for size in input.shape[2:4]]
    grad_input = lanes_conv2d_grad_input(
        grad_output, batch, grad_halo, weight, mask, plan, hw, *conv
    )
    grad_weight = lanes_conv2d_grad_weight(
        grad_output, grad_halo, input, batch, input_halo, mask, plan, *conv
    )
    return grad_input, like_weight(grad_weight, weight, groups)
