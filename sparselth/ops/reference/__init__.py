"""The oracles: every op in plain PyTorch, on any device and dtype.

Registered as the default kernel, so the package is correct with no compiler, no CUDA and no
Triton. Tests compare every compiled kernel with these functions and benchmarks use the
convolutions among them as the dense-with-mask baseline.

Arguments, shapes and layouts are those of the ops, see `contract/`; plans are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..contract import ALL_SCHEMAS, NAMESPACE
from ..contract.arguments import checked
from . import conv, gpu, lanes, lanes_fused, lanes_layers, linear, selection, steps
from .conv import (
    convolution_backward,
    masked_conv2d,
    masked_conv2d_grad_input,
    masked_conv2d_grad_weight,
    masked_conv2d_relu,
)
from .linear import masked_linear, masked_linear_grad_input, masked_linear_grad_weight
from .mask import apply_mask, zero_off_mask_
from .selection import admm_project_, topk_mask, weight_overlap
from .steps import masked_adamw_, masked_sgd_

__all__ = [
    "admm_project_",
    "apply_mask",
    "convolution_backward",
    "masked_adamw_",
    "masked_conv2d",
    "masked_conv2d_grad_input",
    "masked_conv2d_grad_weight",
    "masked_conv2d_relu",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "masked_sgd_",
    "oracle",
    "topk_mask",
    "weight_overlap",
    "zero_off_mask_",
]

_ROOMS = (conv, linear, selection, steps, lanes, lanes_fused, lanes_layers, gpu)
_ORACLES = {op: getattr(room, op) for room in _ROOMS for op in ALL_SCHEMAS if hasattr(room, op)}


def oracle(op: str) -> Callable[..., Any]:
    """Return what computes an op in plain PyTorch, with the op's arguments.

    op: a name of `contract.ALL_SCHEMAS`.  Raises KeyError for any other.
    """
    return _ORACLES[op]


for _op in ALL_SCHEMAS:
    torch.library.register_kernel(f"{NAMESPACE}::{_op}", None, checked(_op, oracle(_op)))
