"""The oracle of the convolutions of `contract_gpu.py`: that of `reference.py`, plans unread."""

from __future__ import annotations

import torch

from . import reference
from .arguments import checked
from .contract import NAMESPACE
from .contract_gpu import GPU_SCHEMAS


def unstructured_conv2d(input, weight, mask, bias, plan, *conv):
    return reference.masked_conv2d(input, weight, mask, bias, plan, *conv).contiguous()


def unstructured_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv):
    run = reference.masked_conv2d_grad_input
    return run(grad_output, weight, mask, plan, input_hw, *conv).contiguous()


def unstructured_conv2d_grad_weight(grad_output, input, mask, plan, *conv):
    return reference.masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)


def column_vector_conv2d(input, weight, mask, bias, plan, vector, *conv):
    out = reference.masked_conv2d(input, weight, mask, bias, plan, *conv)
    return out.contiguous(memory_format=torch.channels_last)


def column_vector_conv2d_grad_input(grad_output, weight, mask, plan, vector, input_hw, *conv):
    grad = reference.masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    return grad.contiguous(memory_format=torch.channels_last)


for _name in GPU_SCHEMAS:
    torch.library.register_kernel(f"{NAMESPACE}::{_name}", None, checked(_name, globals()[_name]))
