"""The contract of the convolutions of single kept weights: schemas and fake kernels.

They compute what the ops of `contract.py` do, for CUDA tensors, with a plan of `entries.py`: by
output channel, for the input gradient by input channel. Results are contiguous. They run below
autograd, chosen by `gpu_conv.py`, so they have no formulas of their own.
"""

from __future__ import annotations

from .contract import CONV, define, fake, output_size

ENTRIES_SCHEMAS: dict[str, str] = {
    "entries_conv2d": (
        f"(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor plan, {CONV}) -> Tensor"
    ),
    "entries_conv2d_grad_input": (
        "(Tensor grad_output, Tensor weight, Tensor mask, Tensor plan, int[2] input_hw, "
        f"{CONV}) -> Tensor"
    ),
    "entries_conv2d_grad_weight": (
        f"(Tensor grad_output, Tensor input, Tensor mask, Tensor plan, {CONV}) -> Tensor"
    ),
}

define(ENTRIES_SCHEMAS)


@fake("entries_conv2d")
def _(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    height, width = (
        output_size(input.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    return input.new_empty((input.shape[0], weight.shape[0], height, width))


@fake("entries_conv2d_grad_input")
def _(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    return grad_output.new_empty((grad_output.shape[0], weight.shape[1] * groups, *input_hw))


@fake("entries_conv2d_grad_weight")
def _(grad_output, input, mask, plan, stride, padding, dilation, groups):
    return input.new_empty(mask.shape)
