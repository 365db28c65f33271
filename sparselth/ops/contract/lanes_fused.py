"""The contract of convolutions that compute their input as they read it: schemas, fake kernels.

`lanes.py` says what a tensor in lanes is. A batch norm is a scale and a shift per channel, and with
the sum of a shortcut and the ReLU after it part of what the next convolution reads: it need not lie
in memory. Nor need a result be read again for the statistics of the norm that follows: they are
summed as it is stored. Results have no halo.
"""

from __future__ import annotations

import torch

from .arguments import output_size
from .lanes import lanes_like, with_halo
from .registry import CONV, define, fake, like_weight

SCHEMAS: dict[str, str] = {
    "lanes_fused_conv2d": (
        "(Tensor a, int batch, int a_halo, Tensor? a_scale, Tensor? a_shift, Tensor? b, "
        "int b_halo, Tensor? b_scale, Tensor? b_shift, bool relu, float upper, bool keep, "
        f"Tensor weight, Tensor mask, Tensor? bias, Tensor? plan, {CONV}, bool moments) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "lanes_fused_conv2d_backward": (
        "(Tensor grad_output, int grad_halo, Tensor a, int batch, int a_halo, Tensor? a_scale, "
        "Tensor? a_shift, bool relu, float upper, Tensor weight, Tensor mask, Tensor? plan, "
        f"{CONV}) -> (Tensor, Tensor)"
    ),
}

define(SCHEMAS)


@fake("lanes_fused_conv2d")
def _(
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
    """Convolve what `lanes_scale_add_relu` would return, and sum the results' statistics.

    x = a * a_scale + a_shift + b * b_scale + b_shift
    x <- min(max(x, 0), upper)   where `relu`; without a limit where `upper` is NaN
    y = conv2d(x, w * mask) + bias

    a: (bundles, C_in, H + 2 a_halo, W + 2 a_halo, L), float16, bfloat16, float32 or
    float64, not empty.
    b: the same with b_halo, or None for no second term, whose scale and shift then do not count.
    batch: N, images in either.  a_halo, b_halo: in pixels.
    a_scale, a_shift, b_scale, b_shift: (C_in,), or None for 1 and 0.
    relu: whether there is a ReLU.  upper: its limit, 6 for ReLU6.
    keep: whether x is wanted; 16 bits are rounded before they are convolved then, not otherwise.
    weight: (C_out, C_in / groups, kH, kW), the dtype of a, float32 with 16 bits, not empty.
    mask: bool, its shape; True keeps.
    bias: (C_out,), the weight's dtype, or None.
    plan: int32, the mask's by `sparselth.ops.conv_plan(mask, groups)`, or None.
    stride, padding, dilation: two ints each, in pixels.  groups: int.
    moments: whether statistics of y are wanted.
    Returns y (bundles, C_out, H_out, W_out, L); x (bundles, C_in, H, W, L), or an empty tensor; and
    of every channel of y, before it is rounded, the mean and the sum of squared distances to it
    over images and pixels: (C_out, 2), float64, (0, 2) where they are not wanted.
    """
    x = with_halo(a, a_halo, 0)
    height, width = (
        output_size(x.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    y = lanes_like(a, weight.shape[0], height, width, 0)
    found = a.new_empty(weight.shape[0] if moments else 0, 2, dtype=torch.float64)
    return y, x if keep else a.new_empty(0, 0, 0, 0, 0), found


@fake("lanes_fused_conv2d_backward")
def _(
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
    """Compute both gradients of a convolution whose input was not kept, which is computed again.

    x = a * a_scale + a_shift, and the ReLU of it, as in `lanes_fused_conv2d`

    grad_output: dy (bundles, C_out, H_out + 2 grad_halo, W_out + 2 grad_halo, L).
    grad_halo: in pixels.
    a, batch, a_halo, a_scale, a_shift, relu, upper: the forward's, which had no b.
    weight, mask, plan, stride, padding, dilation, groups: the forward's.
    Returns dx (bundles, C_in, H, W, L), the gradient of x, not of a; and dw (C_out, C_in / groups,
    kH, kW), the weight's dtype, zero where the mask prunes, channels_last where the weight is and
    has one group.
    """
    dw = like_weight(weight.new_empty(weight.shape), weight, groups)
    return with_halo(a, a_halo, 0), dw
