"""Which launcher serves an op's CUDA tensors: Triton's, or the kernel that fits the mask.

triton is optional and slow to import, so nothing here imports it before a kernel is wanted.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from .. import reference
from ..contract import NAMESPACE
from ..contract.arguments import checked
from . import conv, linear
from .kernel import has_cuda_kernels
from .triton_support import installed, why_missing

LIST_OPS = ("topk_mask", "admm_project_", "weight_overlap", "masked_sgd_", "masked_adamw_")
BY_MASK = (*conv.CONVOLUTIONS, *linear.LINEARS)
"""Ops that are served by the kernel which fits the mask, see `candidates.py`."""
OPS = (*LIST_OPS, *BY_MASK)


@cache
def kernel(op: str) -> Callable[..., Any]:
    """Return the launcher of an op's Triton kernel."""
    if op in BY_MASK:
        return getattr(conv if op in conv.CONVOLUTIONS else linear, op)
    module = importlib.import_module(f"sparselth.kernels.{op.rstrip('_')}")
    return getattr(module, op)


def launcher(op: str) -> Callable[..., Any]:
    """Return the launcher of an op's kernel, or the reference where none can run.

    Those by mask have kernels in CUDA C++ too, reached the same way.
    """
    if not why_missing() or (op in BY_MASK and has_cuda_kernels()):
        return kernel(op)
    _warn_once(why_missing())
    return reference.oracle(op)


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"sparselth's Triton kernels cannot run here, plain PyTorch takes their place: {reason}",
        stacklevel=2,
    )


def register(op: str) -> None:
    """Let the Triton kernel serve an op's CUDA tensors, or what `launcher` finds in its place."""
    there = installed("triton") or (op in BY_MASK and has_cuda_kernels())
    if torch.version.cuda is None or not there:
        return  # to the dispatcher, the reference serves CUDA tensors like any others

    def run(*arguments):
        # Asked at the first call: a query at import would initialize CUDA in every process.
        return launcher(op)(*arguments)

    torch.library.register_kernel(f"{NAMESPACE}::{op}", "cuda", checked(op, run))
