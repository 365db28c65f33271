"""The contract of the convolutions behind `masked_conv2d` on a GPU: schemas and fake kernels.

They compute what the ops of `conv.py` do, for CUDA tensors, with a plan of their own: by output
channel, for the input gradient by input channel, for a weight gradient of blocks by both. They run
below autograd, chosen by `gpu/candidates.py`, so they have no formulas of their own. Sums are in
float32.

CUDA tensors raise RuntimeError besides where a kernel reaches too far for shared memory, which
`ConvKernel.fits` tells beforehand, and `gpu.halo_blocks.grad_weight_fits` for that of blocks. A
plan's length is compared with its mask, its words are not: a kernel that finds one that leads
outside of its tensors traps.
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
    "halo_block_conv2d": _FORWARD,
    "halo_block_conv2d_grad_input": _GRAD_INPUT,
    "halo_block_conv2d_grad_weight": _GRAD_WEIGHT,
}

define(SCHEMAS)


@fake("unstructured_conv2d")
def _forward(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    """Convolve by single kept weights: `masked_conv2d` for scattered masks at high sparsity.

    input: (N, C_in, H, W), float16, bfloat16 or float32; contiguous is read as it is.
    weight: (C_out, C_in / groups, kH, kW), the input's dtype.  mask: bool, its shape; True keeps.
    bias: (C_out,), the input's dtype, or None.
    plan: int32 (length,), `gpu.unstructured.find_unstructured(mask, groups).by_output`.
    stride, padding, dilation: two ints each, in pixels.  groups: int.
    Returns y (N, C_out, H_out, W_out), the input's dtype, contiguous.
    """
    height, width = (
        output_size(input.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    return input.new_empty((input.shape[0], weight.shape[0], height, width))


@fake("unstructured_conv2d_grad_input")
def _grad_input(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    """Compute the gradient of `unstructured_conv2d` with respect to its input.

    As `masked_conv2d_grad_input`, by single kept weights.

    grad_output: dy (N, C_out, H_out, W_out), float16, bfloat16 or float32.
    weight, mask, stride, padding, dilation, groups: the forward's.
    plan: int32 (length,), `gpu.unstructured.find_unstructured(mask, groups).by_input`.
    input_hw: (H, W) of the input, two ints in pixels.
    Returns dx (N, C_in, H, W), the dtype of grad_output, contiguous.
    """
    return grad_output.new_empty((grad_output.shape[0], weight.shape[1] * groups, *input_hw))


@fake("unstructured_conv2d_grad_weight")
def _(grad_output, input, mask, plan, stride, padding, dilation, groups):
    """Compute the gradient of `unstructured_conv2d` with respect to its weight, where kept.

    As `masked_conv2d_grad_weight`, by single kept weights: exactly zero where the mask prunes.

    grad_output: dy (N, C_out, H_out, W_out), float16, bfloat16 or float32.
    input: x (N, C_in, H, W), the dtype of grad_output.
    mask, plan, stride, padding, dilation, groups: the forward's.
    Returns dw (C_out, C_in / groups, kH, kW), the dtype of the input, contiguous.
    """
    return input.new_empty(mask.shape)


@fake("column_vector_conv2d")
def _(input, weight, mask, bias, plan, vector, *conv):
    """Convolve by vectors of weights on tensor cores: `masked_conv2d` for masks of such vectors.

    A vector is one column of the weight (input channel and tap) in `vector` neighboring outputs,
    listed where any of them keeps its weight; what the mask prunes inside it counts as zero. Any
    mask is served exactly.

    input: (N, C_in, H, W), float16 or bfloat16, channels_last.
    weight: (C_out, C_in, kH, kW), the input's dtype.  mask: bool, its shape; True keeps.
    bias: (C_out,), the input's dtype, or None.
    plan: int32 (length,), `gpu.column_vector.find_column_vectors(mask, vector).by_output`.
    vector: 16 or 8.
    stride, padding, dilation: two ints each, in pixels.  groups: 1.
    Returns y (N, C_out, H_out, W_out), the input's dtype, channels_last.

    Reference: Li et al. 2022, "Efficient Quantized Sparse Matrix Operations on Tensor Cores"
    (Magicube), for the operand layout of vectors.
    """
    out = _forward(input, weight, mask, bias, plan, *conv)
    return out.contiguous(memory_format=torch.channels_last)


@fake("column_vector_conv2d_grad_input")
def _(grad_output, weight, mask, plan, vector, input_hw, *conv):
    """Compute the gradient of `column_vector_conv2d` with respect to its input.

    As `masked_conv2d_grad_input`. A vector here is one output and tap in `vector` neighboring
    inputs.

    grad_output: dy (N, C_out, H_out, W_out), float16 or bfloat16, channels_last.
    weight, mask, vector: the forward's, and so are stride, padding, dilation and groups.
    plan: int32 (length,), `gpu.column_vector.find_column_vectors(mask, vector).by_input`.
    input_hw: (H, W) of the input, two ints in pixels.
    Returns dx (N, C_in, H, W), the dtype of grad_output, channels_last.
    """
    grad = _grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    return grad.contiguous(memory_format=torch.channels_last)


@fake("halo_block_conv2d")
def _(input, weight, mask, bias, plan, *conv):
    """Convolve by blocks of 32 x 32 weights on tensor cores, each pixel fetched once for all taps.

    A block is 32 neighboring outputs by as many neighboring inputs of one tap, listed where any of
    its weights is kept; what the mask prunes inside it counts as zero. Any mask is served exactly.

    input: (N, C_in, H, W), float16 or bfloat16, channels_last.
    weight: (C_out, C_in, kH, kW), the input's dtype.  mask: bool, its shape; True keeps.
    bias: (C_out,), the input's dtype, or None.
    plan: int32 (length,), `gpu.halo_blocks.find_halo_blocks(mask).by_output`.
    stride, padding, dilation: two ints each, in pixels.  groups: 1.
    Returns y (N, C_out, H_out, W_out), the input's dtype, channels_last.
    """
    out = _forward(input, weight, mask, bias, plan, *conv)
    return out.contiguous(memory_format=torch.channels_last)


@fake("halo_block_conv2d_grad_input")
def _(grad_output, weight, mask, plan, input_hw, *conv):
    """Compute the gradient of `halo_block_conv2d` with respect to its input.

    As `masked_conv2d_grad_input`, by the same blocks.

    grad_output: dy (N, C_out, H_out, W_out), float16 or bfloat16, channels_last.
    weight, mask: the forward's, and so are stride, padding, dilation and groups.
    plan: int32 (length,), `gpu.halo_blocks.find_halo_blocks(mask).by_input`.
    input_hw: (H, W) of the input, two ints in pixels.
    Returns dx (N, C_in, H, W), the dtype of grad_output, channels_last.
    """
    grad = _grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    return grad.contiguous(memory_format=torch.channels_last)


@fake("halo_block_conv2d_grad_weight")
def _(grad_output, input, mask, plan, stride, padding, dilation, groups):
    """Compute the gradient of `halo_block_conv2d` with respect to its weight, where kept.

    As `masked_conv2d_grad_weight`, by the same blocks: exactly zero where the mask prunes.

    grad_output: dy (N, C_out, H_out, W_out), float16 or bfloat16, channels_last.
    input: x (N, C_in, H, W), the dtype of grad_output, channels_last.
    mask, stride, padding, dilation, groups: the forward's.
    plan: int32 (length,), `gpu.halo_blocks.find_halo_blocks(mask).by_panel`.
    Returns dw (C_out, C_in, kH, kW), the dtype of the input, contiguous.
    """
    return input.new_empty(mask.shape)
