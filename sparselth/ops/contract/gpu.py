"""The contract of the convolutions behind `masked_conv2d` on a GPU: schemas and fake kernels.

They compute what the ops of `conv.py` do, for CUDA tensors, with a plan of their own: by output
channel, for the input gradient by input channel. They run below autograd, chosen by
`gpu/candidates.py`, so they have no formulas of their own.
    unstructured_*   by single weights; plans of `gpu/unstructured.py`; results are contiguous.
    column_vector_*  by vectors of `vector` weights, 16 or 8, without groups; plans of
                     `gpu/column_vector.py`; activations are float16 or bfloat16 in channels_last,
                     and so are results.
"""

from __future__ import annotations

import torch

from .arguments import output_size
from .registry import CONV, define, fake

_FORWARD = (
    f"(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor plan, {CONV}) -> Tensor"
)
_GRAD_INPUT = (
    "(Tensor grad_output, Tensor weight, Tensor mask, Tensor plan, int[2] input_hw, "
    f"{CONV}) -> Tensor"
)
_GRAD_WEIGHT = f"(Tensor grad_output, Tensor input, Tensor mask, Tensor plan, {CONV}) -> Tensor"

SCHEMAS: dict[str, str] = {
    "unstructured_conv2d": _FORWARD,
    "unstructured_conv2d_grad_input": _GRAD_INPUT,
    "unstructured_conv2d_grad_weight": _GRAD_WEIGHT,
    "column_vector_conv2d": _FORWARD.replace("Tensor plan,", "Tensor plan, int vector,"),
    "column_vector_conv2d_grad_input": _GRAD_INPUT.replace(
        "Tensor plan,", "Tensor plan, int vector,"
    ),
}

define(SCHEMAS)


@fake("unstructured_conv2d")
def _forward(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    height, width = (
        output_size(input.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    return input.new_empty((input.shape[0], weight.shape[0], height, width))


@fake("unstructured_conv2d_grad_input")
def _grad_input(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    return grad_output.new_empty((grad_output.shape[0], weight.shape[1] * groups, *input_hw))


@fake("unstructured_conv2d_grad_weight")
def _(grad_output, input, mask, plan, stride, padding, dilation, groups):
    return input.new_empty(mask.shape)


@fake("column_vector_conv2d")
def _(input, weight, mask, bias, plan, vector, *conv):
    out = _forward(input, weight, mask, bias, plan, *conv)
    return out.contiguous(memory_format=torch.channels_last)


@fake("column_vector_conv2d_grad_input")
def _(grad_output, weight, mask, plan, vector, input_hw, *conv):
    grad = _grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    return grad.contiguous(memory_format=torch.channels_last)
