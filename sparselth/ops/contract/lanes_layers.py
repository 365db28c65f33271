"""The contract of the layers between convolutions in lanes: norm, sum, ReLU, pooling.

Schemas and fake kernels. `lanes.py` says what a tensor in lanes is. These ops run below autograd,
called by `lanes/handlers/`, so they have no formulas of their own; each has its backward beside it.
C is the number of channels, and "per channel" is a tensor (C,) of the activations' dtype, float32
with 16 bits.
"""

from __future__ import annotations

import torch

from .arguments import compute_dtype, output_size
from .lanes import lanes_like, with_halo
from .registry import define, fake

SCHEMAS: dict[str, str] = {
    "lanes_batch_norm": (
        "(Tensor input, int batch, int input_halo, Tensor? weight, Tensor? bias, "
        "Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum, float eps, "
        "Tensor? moments) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "lanes_scale_add_relu": (
        "(Tensor a, int batch, int a_halo, Tensor? a_scale, Tensor? a_shift, Tensor? b, "
        "int b_halo, Tensor? b_scale, Tensor? b_shift, bool relu, float upper, int halo) -> Tensor"
    ),
    "lanes_relu_backward_add": (
        "(Tensor grad, int grad_halo, Tensor? gate, int gate_halo, float upper, Tensor? other, "
        "int other_halo, int halo) -> Tensor"
    ),
    "lanes_batch_norm_backward": (
        "(Tensor grad, int grad_halo, Tensor? gate, int gate_halo, Tensor? gate_scale, "
        "Tensor? gate_shift, float upper, Tensor input, int batch, int input_halo, "
        "Tensor mean, Tensor invstd, Tensor? weight, bool training, int halo) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "lanes_max_pool2d": (
        "(Tensor input, int batch, int input_halo, Tensor? scale, Tensor? shift, bool relu, "
        "float upper, int[2] kernel, int[2] stride, int[2] padding, int halo) -> (Tensor, Tensor)"
    ),
    "lanes_max_pool2d_backward": (
        "(Tensor grad, int batch, int grad_halo, Tensor position, int[2] input_hw, "
        "int[2] kernel, int[2] stride, int[2] padding, int halo) -> Tensor"
    ),
}

define(SCHEMAS)


@fake("lanes_batch_norm")
def _(
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
    """Take the statistics of a training batch, and make batch norm a scale and a shift of them.

    mean = E[x];   invstd = 1 / sqrt(Var[x] + eps), the variance over n = batch H W, not n - 1
    scale = weight invstd;   shift = bias - mean scale
    running <- (1 - momentum) running + momentum statistic, the variance's over n - 1

    The norm's result is input * scale + shift: `lanes_scale_add_relu` computes it.

    input: x (bundles, C, H + 2 input_halo, W + 2 input_halo, L), float16, bfloat16, float32 or
    float64.
    batch: its images.  input_halo: in pixels.
    weight, bias: per channel, or None for 1 and 0.
    running_mean, running_var: per channel, contiguous, updated in place; or None.
    momentum, eps: as of `torch.nn.BatchNorm2d`.
    moments: (C, 2), float64, of `lanes_fused_conv2d`, with which x is not read; or None.
    Returns mean, invstd, scale, shift: per channel each.

    Reference: Ioffe and Szegedy 2015, "Batch Normalization", algorithm 1.
    """
    dtype = compute_dtype(input.dtype)
    return tuple(input.new_empty(input.shape[1], dtype=dtype) for _ in range(4))


@fake("lanes_scale_add_relu")
def _(a, batch, a_halo, a_scale, a_shift, b, b_halo, b_scale, b_shift, relu, upper, halo):
    """Scale, shift, add and apply a ReLU in one pass: a norm, a residual sum and what follows it.

    y = a * a_scale + a_shift + b * b_scale + b_shift
    y <- min(max(y, 0), upper)   where `relu`; without a limit where `upper` is NaN

    a: (bundles, C, H + 2 a_halo, W + 2 a_halo, L), float16, bfloat16, float32 or
    float64.
    b: the same with b_halo, or None for no second term, whose scale and shift then do not count.
    batch: images in either.  a_halo, b_halo: in pixels.
    a_scale, a_shift, b_scale, b_shift: per channel, or None for 1 and 0.
    relu: whether there is a ReLU.  upper: its limit, 6 for ReLU6.
    halo: of the result, in pixels.
    Returns y (bundles, C, H + 2 halo, W + 2 halo, L).
    """
    return with_halo(a, a_halo, halo)


@fake("lanes_relu_backward_add")
def _(grad, grad_halo, gate, gate_halo, upper, other, other_halo, halo):
    """Compute the gradient before a ReLU, and add that of another branch, in one pass.

    dx = (0 where gate <= 0 or gate >= upper, else grad) + other

    grad: (bundles, C, H + 2 grad_halo, W + 2 grad_halo, L), float16, bfloat16, float32 or
    float64.
    gate: the ReLU's result or its input, the same with gate_halo; None lets everything through.
    upper: the ReLU's limit; NaN for none.
    other: a gradient to be added, the same with other_halo; or None.
    grad_halo, gate_halo, other_halo: in pixels.  halo: of the result.
    Returns dx (bundles, C, H + 2 halo, W + 2 halo, L).
    """
    return with_halo(grad, grad_halo, halo)


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
    """Compute the gradients of a batch norm, behind the ReLU that may follow it.

    g = 0 where gate <= 0 or gate >= upper, else grad
    xhat = (x - mean) invstd;   db = sum g;   dw = sum g xhat, over images and pixels
    dx = weight invstd (g - db / n - xhat dw / n)   where `training`, n = batch H W
    dx = weight invstd g                            otherwise

    grad: (bundles, C, H + 2 grad_halo, W + 2 grad_halo, L), float16, bfloat16, float32 or
    float64.
    gate: the ReLU's result or its input, the same with gate_halo. Or None, and with it
    gate_scale, gate_shift: per channel, for gate = x * gate_scale + gate_shift, which saves
    reading one more tensor. All three None: no ReLU.
    upper: the ReLU's limit; NaN for none.
    input: x, what the norm was given, the same with input_halo.
    batch: images in each.  grad_halo, gate_halo, input_halo: in pixels.
    mean, invstd: per channel, of the batch where `training`, else of the running statistics.
    weight: per channel, or None for 1.
    training: whether mean and invstd depend on x, so that the gradient goes through them.
    halo: of the result, in pixels.
    Returns dx (bundles, C, H + 2 halo, W + 2 halo, L); dw and db, per channel.

    Reference: Ioffe and Szegedy 2015, "Batch Normalization", section 3.
    """
    return with_halo(grad, grad_halo, halo), torch.empty_like(mean), torch.empty_like(mean)


@fake("lanes_max_pool2d")
def _(input, batch, input_halo, scale, shift, relu, upper, kernel, stride, padding, halo):
    """Take the maximum of each window of what is computed as it is read; note where it was.

    x = input * scale + shift
    x <- min(max(x, 0), upper)   where `relu`; without a limit where `upper` is NaN
    y[n, c, p, q] = max over r, s of x[n, c, p stride - padding + r, q stride - padding + s]
    position[n, c, p, q] = r kernel_w + s of the maximum, the first of equals

    That is, of what `lanes_scale_add_relu` would return: x is rounded to the dtype of the input
    before it is compared. Pixels outside the image do not count. A NaN in a window is its maximum.

    input: (bundles, C, H + 2 input_halo, W + 2 input_halo, L), float16, bfloat16, float32 or
    float64.
    batch: its images.  input_halo: in pixels.
    scale, shift: per channel, or None for 1 and 0.
    relu: whether there is a ReLU.  upper: its limit, 6 for ReLU6.
    kernel: (kernel_h, kernel_w), at most 255 pixels in all.  stride >= 1.
    padding: at most half the kernel. All three are two ints in pixels.
    halo: of the maxima, in pixels.
    Returns y (bundles, C, H_out + 2 halo, W_out + 2 halo, L); and the positions, uint8 (bundles, C,
    H_out, W_out, L), with H_out = (H + 2 padding - kernel_h) // stride + 1.
    """
    inner = with_halo(input, input_halo, 0)
    height, width = (
        output_size(inner.shape[2 + i], kernel[i], stride[i], padding[i], 1) for i in range(2)
    )
    out = lanes_like(input, input.shape[1], height, width, halo)
    position = lanes_like(input, input.shape[1], height, width, 0)
    return out, position.to(torch.uint8)


@fake("lanes_max_pool2d_backward")
def _(grad, batch, grad_halo, position, input_hw, kernel, stride, padding, halo):
    """Bring each window's gradient to where its maximum was; windows that overlap are added.

    dx[n, c, y, x] = sum of grad[n, c, p, q] over the windows whose maximum was at (y, x)

    grad: (bundles, C, H_out + 2 grad_halo, W_out + 2 grad_halo, L), float16, bfloat16, float32 or
    float64.
    batch: its images.  grad_halo: in pixels.
    position: uint8 (bundles, C, H_out, W_out, L), of `lanes_max_pool2d`.
    input_hw: (H, W) of the input without its halo, in pixels.
    kernel, stride, padding: the forward's.  halo: of the result, in pixels.
    Returns dx (bundles, C, H + 2 halo, W + 2 halo, L).
    """
    height, width = input_hw
    return lanes_like(grad, grad.shape[1], height, width, halo)
