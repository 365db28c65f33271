"""masked_conv2d and its gradients: schemas and fake kernels."""

from __future__ import annotations

from .arguments import output_size
from .registry import CONV, define, fake, memory_format

SCHEMAS: dict[str, str] = {
    "masked_conv2d": (
        f"(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor? plan, {CONV}) -> Tensor"
    ),
    # max(y, 0) of the same, for kernels that have it at no cost.
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
@fake("masked_conv2d_relu")
def _(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    height, width = (
        output_size(input.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    shape = (input.shape[0], weight.shape[0], height, width)
    return input.new_empty(shape).contiguous(memory_format=memory_format(input))


@fake("masked_conv2d_grad_input")
def _(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    shape = (grad_output.shape[0], weight.shape[1] * groups, *input_hw)
    return grad_output.new_empty(shape).contiguous(memory_format=memory_format(grad_output))


@fake("masked_conv2d_grad_weight")
def _(grad_output, input, mask, plan, stride, padding, dilation, groups):
    return input.new_empty(mask.shape)
