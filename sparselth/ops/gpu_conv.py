"""The sparse convolutions for GPUs under the contract of the ops, by whichever kernel fits a mask.

Four serve: the block-sparse kernels of `sparselth.kernels` (Triton, tensor cores); where whole
filters and channels are gone, cuDNN on what remains (`compaction.py`); and for scattered masks at
high sparsity, in CUDA C++, a kernel of single weights (`unstructured_conv2d`) and in 16 bits one of
vectors of 16 or 8 weights on tensor cores (`column_vector_conv2d`, which leaves the weight's
gradient to the former). The one that should take least time is chosen from the mask; `choice.py`
measures it against dense cuDNN.

What was found out about a mask lives beside its plan, which is the mask's blocks: int32 (E, 4) on
the GPU. A call without a plan, or with one that was not built here, looks at its mask anew, which
waits for the GPU once; the mask is remembered until it changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import SparselthError
from . import column_vector, compaction, reference, unstructured
from .column_vector import ColumnVectorIndex, find_column_vectors
from .compaction import Compaction, find_compaction
from .contract import NAMESPACE, OPS, memory_format
from .switches import forced
from .triton_support import why_missing
from .unstructured import UnstructuredIndex, find_unstructured

if TYPE_CHECKING:
    from ..kernels.blocks import BlockIndex

CONVOLUTIONS = (
    "masked_conv2d",
    "masked_conv2d_relu",
    "masked_conv2d_grad_input",
    "masked_conv2d_grad_weight",
)

# float64 has no tensor cores worth a kernel: the reference serves it.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Teraflops that cuDNN and the kernels of vectors and single weights are expected to reach, beside
# those of `kernels.blocks.EXPECTED_RATE`. Estimates for an H100, nothing measured.
_RATE_OF_CUDNN, _RATE_OF_UNSTRUCTURED = 450.0, 12.5

# Kernel -> length of its vectors, and its rate; what shared memory can feed is 474 and 237.
_BY_VECTORS = {"column_vector16": (16, 250.0), "column_vector8": (8, 150.0)}

_16_BIT = (torch.float16, torch.bfloat16)

# A forced backend -> its kernels.
_OF_BACKEND: dict[str | None, tuple[str, ...]] = {
    "cuda": ("unstructured", *_BY_VECTORS),
    "triton": ("blocks", "compaction"),
}


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
    unstructured: UnstructuredIndex | None = None  # found when they are wanted
    column_vectors: dict[int, ColumnVectorIndex] = field(default_factory=dict)  # by length

    def serving(self, dtype: torch.dtype | None = None) -> str:
        """Name the kernel to be used, or "dense" where none serves.

        "blocks", "compaction", "unstructured", "column_vector16" or "column_vector8".

        dtype: of the activations; None asks for what serves all.
        """
        names = [n for n in _OF_BACKEND.get(forced(), self.work) if n in self.work]
        if dtype not in _16_BIT:
            names = [name for name in names if name not in _BY_VECTORS]
        return min(names, key=self.work.__getitem__, default="dense")

    def left(self) -> Compaction:
        """Return what is left of the mask, where it serves."""
        assert self.compaction is not None
        return self.compaction

    def unstructured_of(self, mask: Tensor) -> UnstructuredIndex:
        """Return the mask's single weights."""
        if self.unstructured is None:
            self.unstructured = find_unstructured(mask, self.index.groups)
        return self.unstructured

    def column_vectors_of(self, mask: Tensor, length: int) -> ColumnVectorIndex:
        """Return the vectors that cover the mask."""
        if length not in self.column_vectors:
            self.column_vectors[length] = find_column_vectors(mask, length)
        return self.column_vectors[length]


@cache
def has_cuda_kernels() -> bool:
    """Say whether the convolutions of _C_cuda are there."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        f"{NAMESPACE}::unstructured_conv2d", "CUDA"
    )


def _blocks_serve(mask: Tensor) -> bool:
    """Say whether the kernels of blocks, in Triton, can run where the mask is."""
    return mask.device.type != "cuda" or not why_missing()


def block_plan(mask: Tensor, groups: int) -> Tensor:
    """Return the plan of a convolution's mask: its blocks, of the size that should cost least.

    mask: (C_out, C_in / groups, kH, kW), bool.
    """
    blocks = importlib.import_module("sparselth.kernels.blocks")
    index = blocks.find_blocks(mask, groups)
    work = {}
    if _blocks_serve(mask):
        work["blocks"] = index.density * _RATE_OF_CUDNN / blocks.EXPECTED_RATE[index.size]
    left = find_compaction(mask) if groups == 1 else None
    if left is not None:
        work["compaction"] = left.density
    if has_cuda_kernels():
        density = float(mask.sum()) / max(mask.numel(), 1)
        work["unstructured"] = density * _RATE_OF_CUDNN / _RATE_OF_UNSTRUCTURED
        if groups == 1:
            for kernel, (length, rate) in _BY_VECTORS.items():
                covers = sum(column_vector.densities(mask, length)) * _RATE_OF_CUDNN / rate
                work[kernel] = (covers + work["unstructured"]) / 3
    # A tensor of its own over the same memory: what a weak table holds must not hold its key.
    plan = index.blocks.detach()
    _by_plan[plan] = Found(index, left, work)
    return plan


def work_of(plan: Tensor | None) -> float | None:
    """Return the time expected under a plan of this module, as a share of dense; else None."""
    found = None if plan is None else _by_plan.get(plan)
    return None if found is None else found.work.get(found.serving(), 1.0)


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


def _choose(plan: Tensor | None, mask: Tensor, input_hw, conv, dtype) -> tuple[str, Found | None]:
    """Return the kernel that serves and what was found out about the mask; None for dense."""
    if dtype not in DTYPES:
        return "dense", None
    found = found_of(plan, mask, conv[3])
    kernel = found.serving(dtype)
    if kernel in _BY_VECTORS and not column_vector.fits_all(mask.shape, input_hw, conv):
        kernel = "unstructured"
    if kernel == "unstructured" and not unstructured.fits_all(mask.shape, input_hw, conv):
        if forced() == "cuda":
            raise SparselthError(
                "use_backend('cuda') is on, but a kernel of "
                f"{tuple(mask.shape[2:])} with dilation {tuple(conv[2])} reaches too far for it"
            )
        kernel = "blocks" if "blocks" in found.work else "dense"
    return kernel, None if kernel == "dense" else found


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def masked_conv2d(
    input: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    plan: Tensor | None,
    *conv: Any,
    relu: bool = False,
) -> Tensor:
    kernel, found = _choose(plan, mask, input.shape[2:], conv, input.dtype)
    if found is None:
        run = reference.masked_conv2d_relu if relu else reference.masked_conv2d
        return run(input, weight, mask, bias, plan, *conv)
    if kernel == "unstructured":
        by_output = found.unstructured_of(mask).by_output
        out = OPS.unstructured_conv2d(input, weight, mask, bias, by_output, *conv)
    elif kernel in _BY_VECTORS:
        length, _ = _BY_VECTORS[kernel]
        by_output = found.column_vectors_of(mask, length).by_output
        out = OPS.column_vector_conv2d(_last(input), weight, mask, bias, by_output, length, *conv)
    elif kernel == "blocks":
        run = _kernel("masked_conv2d")
        out = run(input, weight, mask, bias, found.index, *conv[:3], relu=relu)
    else:
        out = compaction.masked_conv2d(input, weight, mask, bias, found.left(), *conv[:3])
    if relu and kernel != "blocks":
        out = out.relu_()
    return out.contiguous(memory_format=memory_format(input))


def masked_conv2d_relu(*arguments: Any) -> Tensor:
    return masked_conv2d(*arguments, relu=True)


def masked_conv2d_grad_input(
    grad_output: Tensor, weight: Tensor, mask: Tensor, plan: Tensor | None, input_hw, *conv: Any
) -> Tensor:
    kernel, found = _choose(plan, mask, input_hw, conv, grad_output.dtype)
    if found is None:
        return reference.masked_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv)
    run: Callable[..., Tensor]
    if kernel == "unstructured":
        run, by_input = OPS.unstructured_conv2d_grad_input, found.unstructured_of(mask).by_input
        grad = run(grad_output, weight, mask, by_input, input_hw, *conv)
    elif kernel in _BY_VECTORS:
        length, _ = _BY_VECTORS[kernel]
        run, by_input = (
            OPS.column_vector_conv2d_grad_input,
            found.column_vectors_of(mask, length).by_input,
        )
        grad = run(_last(grad_output), weight, mask, by_input, length, input_hw, *conv)
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
    kernel, found = _choose(plan, mask, input.shape[2:], conv, input.dtype)
    if found is None:
        return reference.masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)
    if kernel == "unstructured" or kernel in _BY_VECTORS:
        by_output = found.unstructured_of(mask).by_output
        return OPS.unstructured_conv2d_grad_weight(grad_output, input, mask, by_output, *conv)
    if kernel == "blocks":
        run = _kernel("masked_conv2d_grad_weight")
        return run(grad_output, input, mask, found.index, *conv[:3])
    run = compaction.masked_conv2d_grad_weight
    return run(grad_output, input, mask, found.left(), *conv[:3])
