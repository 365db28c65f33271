"""The sparse convolutions for GPUs under the contract of the ops: of blocks, or compacted.

A mask is served by the block-sparse kernels of `sparselth.kernels`, or, where whole filters and
channels are gone, by cuDNN on what remains: whichever should take less time. What was found out
about a mask lives beside its plan, which is the mask's blocks: int32 (E, 4) on the GPU. A call
without a plan, or with one that was not built here, looks at its mask anew, which waits for the GPU
once; the mask is remembered until it changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import SparselthError
from . import compaction, reference
from .compaction import Compaction, find_compaction
from .contract import memory_format

if TYPE_CHECKING:
    from ..kernels.blocks import BlockIndex

OPS = ("masked_conv2d", "masked_conv2d_grad_input", "masked_conv2d_grad_weight")

# float64 has no tensor cores worth a kernel: the reference serves it.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Teraflops that cuDNN is expected to reach, beside those of `kernels.blocks.EXPECTED_RATE`.
_EXPECTED_OF_CUDNN = 450.0

_by_plan = WeakIdKeyDictionary()
_by_mask = WeakIdKeyDictionary()


class Found(NamedTuple):
    """What serves a mask: its blocks, or what is left of it if that should be faster."""

    index: BlockIndex
    compaction: Compaction | None

    @property
    def density(self) -> float:
        """Share of the weight that is multiplied."""
        return self.index.density if self.compaction is None else self.compaction.density


def block_plan(mask: Tensor, groups: int) -> Tensor:
    """Return the plan of a convolution's mask: its blocks, of the size that should cost least.

    mask: (C_out, C_in / groups, kH, kW), bool.
    """
    blocks = importlib.import_module("sparselth.kernels.blocks")
    index, left = blocks.find_blocks(mask, groups), None
    if groups == 1:
        left = find_compaction(mask)
        if left.density / _EXPECTED_OF_CUDNN > index.density / blocks.EXPECTED_RATE[index.size]:
            left = None
    _by_plan[index.blocks] = Found(index, left)
    return index.blocks


def work_density(plan: Tensor | None) -> float | None:
    """Return the share of the weight that is multiplied under a plan of this module, else None."""
    found = None if plan is None else _by_plan.get(plan)
    return None if found is None else found.density


def found_of(plan: Tensor | None, mask: Tensor, groups: int) -> Found:
    """Return what serves a mask, by its plan if it has one.

    Raises SparselthError for the plan of a mask of another shape.
    """
    found = None if plan is None else _by_plan.get(plan)
    if found is None:
        version, known, found = _by_mask.get(mask, (None, None, None))
        if version != mask._version or known != groups:
            found = _by_plan[block_plan(mask, groups)]
            _by_mask[mask] = (mask._version, groups, found)
        return found
    if found.index.shape != tuple(mask.shape) or found.index.groups != groups:
        raise SparselthError("the plan belongs to another mask; rebuild it")
    return found


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
    index, left = found_of(plan, mask, conv[3])
    if left is None:
        out = _kernel("masked_conv2d")(input, weight, mask, bias, index, *conv[:3])
    else:
        out = compaction.masked_conv2d(input, weight, mask, bias, left, *conv[:3])
    return out.contiguous(memory_format=memory_format(input))


def masked_conv2d_grad_input(
    grad_output: Tensor, weight: Tensor, mask: Tensor, plan: Tensor | None, input_hw, *conv: Any
) -> Tensor:
    if grad_output.dtype not in DTYPES:
        return reference.masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    index, left = found_of(plan, mask, conv[3])
    if left is None:
        run = _kernel("masked_conv2d_grad_input")
        grad = run(grad_output, weight, mask, index, input_hw, *conv[:3])
    else:
        grad = compaction.masked_conv2d_grad_input(
            grad_output, weight, mask, left, input_hw, *conv[:3]
        )
    return grad.contiguous(memory_format=memory_format(grad_output))


def masked_conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, mask: Tensor, plan: Tensor | None, *conv: Any
) -> Tensor:
    if input.dtype not in DTYPES:
        return reference.masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)
    index, left = found_of(plan, mask, conv[3])
    if left is None:
        return _kernel("masked_conv2d_grad_weight")(grad_output, input, mask, index, *conv[:3])
    return compaction.masked_conv2d_grad_weight(grad_output, input, mask, left, *conv[:3])
