"""The sparse convolutions for GPUs under the contract of the ops, by whichever kernel fits a mask.

Three serve: the block-sparse kernels of `sparselth.kernels` (Triton, tensor cores); where whole
filters and channels are gone, cuDNN on what remains (`compaction.py`); and a kernel of single
weights (`entries_conv2d`, CUDA C++), for scattered masks at high sparsity. The one that should take
least time is chosen from the mask; `choice.py` measures it against dense cuDNN.

What was found out about a mask lives beside its plan, which is the mask's blocks: int32 (E, 4) on
the GPU. A call without a plan, or with one that was not built here, looks at its mask anew, which
waits for the GPU once; the mask is remembered until it changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import SparselthError
from . import compaction, reference
from .compaction import Compaction, find_compaction
from .contract import NAMESPACE, memory_format
from .entries import Entries, find_entries, fits_all
from .forcing import forced

if TYPE_CHECKING:
    from ..kernels.blocks import BlockIndex

OPS = ("masked_conv2d", "masked_conv2d_grad_input", "masked_conv2d_grad_weight")

# float64 has no tensor cores worth a kernel: the reference serves it.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Teraflops that cuDNN and the kernel of single weights are expected to reach, beside those of
# `kernels.blocks.EXPECTED_RATE`. Estimates for an H100, nothing measured.
_RATE_OF_CUDNN, _RATE_OF_ENTRIES = 450.0, 12.5

_ops = torch.ops.sparselth

_by_plan = WeakIdKeyDictionary()
_by_mask = WeakIdKeyDictionary()


@dataclass(eq=False)
class Found:
    """What can serve a mask, and what should.

    compaction: what is left of the mask; None where nothing is gained, or with groups.
    work: each kernel's expected time, as a share of dense cuDNN's.
    """

    index: BlockIndex
    compaction: Compaction | None
    work: dict[str, float]
    entries: Entries | None = None  # found when they are wanted

    def serving(self) -> str:
        """Name the kernel to be used: "blocks", "compaction" or "entries"."""
        names = {"cuda": ("entries",), "triton": ("blocks", "compaction")}.get(
            forced() or "", tuple(self.work)
        )
        return min((name for name in names if name in self.work), key=self.work.__getitem__)

    def left(self) -> Compaction:
        """Return what is left of the mask, where it serves."""
        assert self.compaction is not None
        return self.compaction

    def entries_of(self, mask: Tensor) -> Entries:
        """Return the mask's single weights."""
        if self.entries is None:
            self.entries = find_entries(mask, self.index.groups)
        return self.entries


@cache
def _has_entries() -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::entries_conv2d", "CUDA")


def block_plan(mask: Tensor, groups: int) -> Tensor:
    """Return the plan of a convolution's mask: its blocks, of the size that should cost least.

    mask: (C_out, C_in / groups, kH, kW), bool.
    """
    blocks = importlib.import_module("sparselth.kernels.blocks")
    index = blocks.find_blocks(mask, groups)
    work = {"blocks": index.density * _RATE_OF_CUDNN / blocks.EXPECTED_RATE[index.size]}
    left = find_compaction(mask) if groups == 1 else None
    if left is not None:
        work["compaction"] = left.density
    if _has_entries():
        density = float(mask.sum()) / max(mask.numel(), 1)
        work["entries"] = density * _RATE_OF_CUDNN / _RATE_OF_ENTRIES
    _by_plan[index.blocks] = Found(index, left, work)
    return index.blocks


def work_of(plan: Tensor | None) -> float | None:
    """Return the time expected under a plan of this module, as a share of dense; else None."""
    found = None if plan is None else _by_plan.get(plan)
    return None if found is None else found.work[found.serving()]


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


def _choose(plan: Tensor | None, mask: Tensor, input_hw, conv) -> tuple[str, Found]:
    found = found_of(plan, mask, conv[3])
    kernel = found.serving()
    if kernel == "entries" and not fits_all(mask.shape, input_hw, conv):
        if forced() == "cuda":
            raise SparselthError(
                "use_backend('cuda') is on, but a kernel of "
                f"{tuple(mask.shape[2:])} with dilation {tuple(conv[2])} reaches too far for it"
            )
        kernel = "blocks"
    return kernel, found


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
    kernel, found = _choose(plan, mask, input.shape[2:], conv)
    if kernel == "entries":
        entries = found.entries_of(mask).by_output
        out = _ops.entries_conv2d(input, weight, mask, bias, entries, *conv)
    elif kernel == "blocks":
        out = _kernel("masked_conv2d")(input, weight, mask, bias, found.index, *conv[:3])
    else:
        out = compaction.masked_conv2d(input, weight, mask, bias, found.left(), *conv[:3])
    return out.contiguous(memory_format=memory_format(input))


def masked_conv2d_grad_input(
    grad_output: Tensor, weight: Tensor, mask: Tensor, plan: Tensor | None, input_hw, *conv: Any
) -> Tensor:
    if grad_output.dtype not in DTYPES:
        return reference.masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    kernel, found = _choose(plan, mask, input_hw, conv)
    run: Callable[..., Tensor]
    if kernel == "entries":
        entries = found.entries_of(mask).by_input
        run = _ops.entries_conv2d_grad_input
        grad = run(grad_output, weight, mask, entries, input_hw, *conv)
    elif kernel == "blocks":
        run = _kernel("masked_conv2d_grad_input")
        grad = run(grad_output, weight, mask, found.index, input_hw, *conv[:3])
    else:
        run = compaction.masked_conv2d_grad_input
        grad = run(grad_output, weight, mask, found.left(), input_hw, *conv[:3])
    return grad.contiguous(memory_format=memory_format(grad_output))


def masked_conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, mask: Tensor, plan: Tensor | None, *conv: Any
) -> Tensor:
    if input.dtype not in DTYPES:
        return reference.masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)
    kernel, found = _choose(plan, mask, input.shape[2:], conv)
    if kernel == "entries":
        entries = found.entries_of(mask).by_output
        return _ops.entries_conv2d_grad_weight(grad_output, input, mask, entries, *conv)
    if kernel == "blocks":
        run = _kernel("masked_conv2d_grad_weight")
        return run(grad_output, input, mask, found.index, *conv[:3])
    run = compaction.masked_conv2d_grad_weight
    return run(grad_output, input, mask, found.left(), *conv[:3])
