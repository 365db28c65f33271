"""The block-sparse convolutions of `sparselth.kernels` under the contract of the ops.

Their index of a mask's blocks lives beside the plan, which is the blocks themselves: int32 (E, 4)
on the GPU. A call without a plan, or with one that was not built here, finds the blocks of its mask
anew, which waits for the GPU once; the mask is remembered until it changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import SparselthError
from . import reference
from .contract import memory_format

if TYPE_CHECKING:
    from ..kernels.blocks import BlockIndex

OPS = ("masked_conv2d", "masked_conv2d_grad_input", "masked_conv2d_grad_weight")

# float64 has no tensor cores worth a kernel: the reference serves it.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_by_plan = WeakIdKeyDictionary()
_by_mask = WeakIdKeyDictionary()


def block_plan(mask: Tensor, groups: int) -> Tensor:
    """Return the plan of a convolution's mask: its blocks, of the size that should cost least.

    mask: (C_out, C_in / groups, kH, kW), bool.
    """
    index = importlib.import_module("sparselth.kernels.blocks").find_blocks(mask, groups)
    _by_plan[index.blocks] = index
    return index.blocks


def block_density(plan: Tensor | None) -> float | None:
    """Return the share of the weight in blocks that keep anything; None for any other plan."""
    index = None if plan is None else _by_plan.get(plan)
    return None if index is None else index.density


def index_of(plan: Tensor | None, mask: Tensor, groups: int) -> BlockIndex:
    """Return the blocks of a mask, by its plan if it has one.

    Raises SparselthError for the plan of a mask of another shape.
    """
    index = None if plan is None else _by_plan.get(plan)
    if index is None:
        version, known, found = _by_mask.get(mask, (None, None, None))
        if version != mask._version or known != groups:
            blocks = block_plan(mask, groups)
            found = _by_plan[blocks]
            _by_mask[mask] = (mask._version, groups, found)
        return found
    if index.shape != tuple(mask.shape) or index.groups != groups:
        raise SparselthError("the plan belongs to another mask; rebuild it")
    return index


@cache
def _kernel(op: str) -> Callable[..., Tensor]:
    return getattr(importlib.import_module(f"sparselth.kernels.{op}"), op)


def masked_conv2d(
    input: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    plan: Tensor | None,
    *conv: Any,
) -> Tensor:
    if input.dtype not in DTYPES:
        return reference.masked_conv2d(input, weight, mask, bias, plan, *conv)
    index = index_of(plan, mask, conv[3])
    out = _kernel("masked_conv2d")(input, weight, mask, bias, index, *conv[:3])
    return out.contiguous(memory_format=memory_format(input))


def masked_conv2d_grad_input(
    grad_output: Tensor, weight: Tensor, mask: Tensor, plan: Tensor | None, input_hw, *conv: Any
) -> Tensor:
    if grad_output.dtype not in DTYPES:
        return reference.masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    index = index_of(plan, mask, conv[3])
    run = _kernel("masked_conv2d_grad_input")
    grad = run(grad_output, weight, mask, index, input_hw, *conv[:3])
    return grad.contiguous(memory_format=memory_format(grad_output))


def masked_conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, mask: Tensor, plan: Tensor | None, *conv: Any
) -> Tensor:
    if input.dtype not in DTYPES:
        return reference.masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)
    index = index_of(plan, mask, conv[3])
    return _kernel("masked_conv2d_grad_weight")(grad_output, input, mask, index, *conv[:3])
