"""The contract of the layout in lanes and of convolutions in it: schemas and fake kernels.

A tensor in lanes is (bundles, C, H + 2 halo, W + 2 halo, L), contiguous, float16, bfloat16, float32
or float64, with bundles = ceil(batch / L): L images side by side, around each plane `halo` zeros;
see `lanes/layout.py`. The CPU kernels take L = `lanes.layout.lanes(dtype)` only, plain PyTorch any.
Halos and spare lanes must be zero going in and are zero coming out: nothing tests for it.

Only activations and their gradients ever have 16 bits: widened as they are read, rounded once as
they are written. All sums, weights and values per channel are float32 then, `compute_dtype`.

These ops run below autograd, inside the modules that hand activations in lanes on, so they have no
formulas of their own. Every tensor in lanes comes with its halo; results of convolutions have
none, those of the others (`lanes_layers.py`) the `halo` asked for.

Reference: oneDNN's format tag Abcd16a, without its halo.
"""

from __future__ import annotations

from torch import Tensor

from .arguments import compute_dtype, output_size
from .registry import CONV, define, fake, like_weight

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
    "lanes_conv2d_backward": (
        "(Tensor grad_output, int grad_halo, Tensor input, int batch, int input_halo, "
        f"Tensor weight, Tensor mask, Tensor? plan, {CONV}) -> (Tensor, Tensor)"
    ),
}

define(SCHEMAS)


def lanes_like(input: Tensor, channels: int, height: int, width: int, halo: int) -> Tensor:
    """Return an empty tensor in lanes with as many images as `input`."""
    bundles, *_, lanes = input.shape
    return input.new_empty(bundles, channels, height + 2 * halo, width + 2 * halo, lanes)


def with_halo(input: Tensor, halo: int, new_halo: int) -> Tensor:
    """Return an empty tensor for images of the size of `input`, with another halo."""
    _, channels, rows, columns, _ = input.shape
    return lanes_like(input, channels, rows - 2 * halo, columns - 2 * halo, new_halo)


@fake("to_lanes")
def _(input, lanes, halo):
    """Lay images out in lanes.

    out[n // L, c, halo + y, halo + x, n % L] = input[n, c, y, x],   zero elsewhere

    input: (N, C, H, W), float16, bfloat16, float32 or float64, contiguous or channels_last.
    lanes: L, images of a bundle.  halo: zeros around each plane, in pixels, >= 0.
    Returns (ceil(N / L), C, H + 2 halo, W + 2 halo, L), the input's dtype, contiguous.
    """
    batch, channels, height, width = input.shape
    bundles = (batch + lanes - 1) // lanes
    return input.new_empty(bundles, channels, height + 2 * halo, width + 2 * halo, lanes)


@fake("from_lanes")
def _(input, batch, halo):
    """Return the images of a tensor in lanes: the inverse of `to_lanes`.

    out[n, c, y, x] = input[n // L, c, halo + y, halo + x, n % L]

    input: (bundles, C, H + 2 halo, W + 2 halo, L).
    batch: N, how many of its images are there.  halo: that of the input.
    Returns (N, C, H, W), the input's dtype, contiguous.
    """
    _, channels, rows, columns, _ = input.shape
    return input.new_empty(batch, channels, rows - 2 * halo, columns - 2 * halo)


@fake("lanes_conv2d")
def _(input, batch, input_halo, weight, mask, bias, plan, stride, padding, dilation, groups):
    """Convolve images in lanes: `masked_conv2d` in another layout.

    input: x (bundles, C_in, H + 2 input_halo, W + 2 input_halo, L), float16, bfloat16, float32 or
    float64. A halo as wide as the kernel reaches beyond the image saves a copy of x, unless it has
    16 bits.
    batch: N, images in the input.  input_halo: in pixels.
    weight: (C_out, C_in / groups, kH, kW), the input's dtype, float32 with 16 bits.
    mask: bool, its shape; True keeps.
    bias: (C_out,), the weight's dtype, or None.
    plan: int32, the mask's by `sparselth.ops.conv_plan(mask, groups)`, or None.
    stride, padding, dilation: two ints each, in pixels.  groups: int.
    Returns y (bundles, C_out, H_out, W_out, L), without a halo.
    """
    inner = with_halo(input, input_halo, 0)
    height, width = (
        output_size(inner.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    return lanes_like(input, weight.shape[0], height, width, 0)


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
    """Compute the gradient of `lanes_conv2d` with respect to its input.

    As `masked_conv2d_grad_input` in another layout.

    grad_output: dy (bundles, C_out, H_out + 2 grad_halo, W_out + 2 grad_halo, L).
    batch: N, its images.  grad_halo: in pixels.
    weight, mask, plan, stride, padding, dilation, groups: the forward's.
    input_hw: (H, W) of the input without its halo, two ints in pixels.
    Returns dx (bundles, C_in, H, W, L), the dtype of grad_output, without a halo.
    """
    height, width = input_hw
    return lanes_like(grad_output, weight.shape[1] * groups, height, width, 0)


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
    """Compute the gradient of `lanes_conv2d` with respect to its weight, of kept weights only.

    As `masked_conv2d_grad_weight` in another layout: exactly zero where the mask prunes.

    grad_output: dy (bundles, C_out, H_out + 2 grad_halo, W_out + 2 grad_halo, L).
    grad_halo: in pixels.
    input: x (bundles, C_in, H + 2 input_halo, W + 2 input_halo, L), the dtype of grad_output.
    batch: N, images in either.  input_halo: in pixels.
    mask, plan, stride, padding, dilation, groups: the forward's.
    Returns dw (C_out, C_in / groups, kH, kW), the weight's dtype, contiguous: no lanes.
    """
    return input.new_empty(mask.shape, dtype=compute_dtype(input.dtype))


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
    """Compute both gradients of `lanes_conv2d` in one pass over grad_output.

    The same as `lanes_conv2d_grad_input` and `lanes_conv2d_grad_weight`, one after the other.

    grad_output: dy (bundles, C_out, H_out + 2 grad_halo, W_out + 2 grad_halo, L).
    grad_halo: in pixels.
    input: x (bundles, C_in, H + 2 input_halo, W + 2 input_halo, L), the dtype of grad_output.
    batch: N, images in either.  input_halo: in pixels.
    weight, mask, plan, stride, padding, dilation, groups: the forward's.
    Returns dx (bundles, C_in, H, W, L), without a halo; and dw (C_out, C_in / groups, kH, kW), the
    weight's dtype, zero where the mask prunes, channels_last where the weight is and has one group.
    """
    dw = like_weight(weight.new_empty(weight.shape), weight, groups)
    return with_halo(input, input_halo, 0), dw
