"""masked_conv2d and its gradients: schemas and fake kernels."""

from __future__ import annotations

from .arguments import output_size
from .registry import CONV, define, fake, memory_format

SCHEMAS: dict[str, str] = {
    "masked_conv2d": (
        f"(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor? plan, {CONV}) -> Tensor"
    ),
    "masked_conv2d_relu": (
        f"(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor? plan, {CONV}) -> Tensor"
    ),
    "masked_conv2d_grad_input": (
        "(Tensor grad_output, Tensor weight, Tensor mask, Tensor? plan, int[2] input_hw, "
        f"{CONV}) -> Tensor"
    ),
    "masked_conv2d_grad_weight": (
        f"(Tensor grad_output, Tensor input, Tensor mask, Tensor? plan, {CONV}) -> Tensor"
    ),
}

define(SCHEMAS)


@fake("masked_conv2d")
def _conv2d(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    """Convolve with the weights that the mask keeps.

    y[n, o, p, q] = bias[o] + sum over kept (i, r, s) of
                    x[n, i, p stride - padding + r dilation, q ...] w[o, i, r, s]

    input: x (N, C_in, H, W), float16, bfloat16, float32 or float64, contiguous or channels_last.
    weight: w (C_out, C_in / groups, kH, kW), the input's dtype.
    mask: bool, the weight's shape; True keeps. Where it is False the weight counts as zero,
    whatever it holds.
    bias: (C_out,), the input's dtype, or None for none.
    plan: int32 (length,), the mask's by `sparselth.ops.conv_plan(mask, groups)`; None builds
    it anew in each call, and a GPU's kernels read none.
    stride, padding, dilation: two ints each, at least 1, 0 and 1, in pixels of height and width;
    the same number of zeros is put on both sides.
    groups: int, divides C_in and C_out.
    Returns y (N, C_out, H_out, W_out), the input's dtype, channels_last exactly where the input is
    and not contiguous as well, with H_out = (H + 2 padding - dilation (kH - 1) - 1) // stride + 1.
    16-bit types are summed in float32 and rounded once.

    Differentiable any number of times.
    """
    height, width = (
        output_size(input.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    shape = (input.shape[0], weight.shape[0], height, width)
    return input.new_empty(shape).contiguous(memory_format=memory_format(input))


@fake("masked_conv2d_relu")
def _(*arguments):
    """Convolve with the weights that the mask keeps, and apply a ReLU: max(y, 0).

    y is that of `masked_conv2d`, and so are input, weight, mask, bias, plan, stride, padding,
    dilation, groups and the result's layout. NaN stays NaN. An op of its own for the GPU kernel of
    blocks, which does it before y is stored; everywhere else it is a pass over y.

    Differentiable any number of times; the gradient is 0 where the result is 0.
    """
    return _conv2d(*arguments)


@fake("masked_conv2d_grad_input")
def _(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    """Compute the gradient of `masked_conv2d` with respect to its input.

    dx[n, i, h, w] = sum over kept (o, r, s) of dy[n, o, p, q] w[o, i, r, s]
                     where p stride - padding + r dilation = h, and q likewise = w

    grad_output: dy (N, C_out, H_out, W_out), contiguous or channels_last.
    weight, mask, plan, stride, padding, dilation, groups: the forward's.
    input_hw: (H, W) of the input, two ints in pixels; a stride leaves them open.
    Returns dx (N, C_in, H, W), the dtype of grad_output, in the layout of grad_output as
    `masked_conv2d` has it. 16-bit types are summed in float32.

    Differentiable any number of times.
    """
    shape = (grad_output.shape[0], weight.shape[1] * groups, *input_hw)
    return grad_output.new_empty(shape).contiguous(memory_format=memory_format(grad_output))


@fake("masked_conv2d_grad_weight")
def _(grad_output, input, mask, plan, stride, padding, dilation, groups):
    """Compute the gradient of `masked_conv2d` with respect to its weight, of kept weights only.

    dw[o, i, r, s] = sum over n, p, q of
                     dy[n, o, p, q] x[n, i, p stride - padding + r dilation, q ...]   where kept
    dw[o, i, r, s] = 0 exactly                                                        elsewhere

    grad_output: dy (N, C_out, H_out, W_out), contiguous or channels_last.
    input: x (N, C_in, H, W), the dtype of grad_output.
    mask, plan, stride, padding, dilation, groups: the forward's.
    Returns dw (C_out, C_in / groups, kH, kW), the dtype of the input, contiguous. 16-bit types are
    summed in float32.

    Differentiable any number of times.
    """
    return input.new_empty(mask.shape)
