"""The Triton kernels as a backend: whether they can run here, and how they are reached.

triton is optional and slow to import, so nothing here imports it before a kernel is wanted.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import gpu_conv, loader, reference
from .arguments import checked
from .contract import NAMESPACE

LIST_OPS = ("topk_mask", "admm_project_", "weight_overlap", "masked_sgd_", "masked_adamw_")
OPS = (*LIST_OPS, *gpu_conv.OPS)


# A plain module global, so that torch.compile can guard on it: the questions themselves (which
# modules are installed, which files are there) break the graph. A module asks when it gets a mask.
_why_missing: str | None = None


def why_missing() -> str:
    """Say why the Triton kernels cannot run here; nothing when they can. Found out once."""
    global _why_missing
    if _why_missing is None:
        _why_missing = _found_missing()
    return _why_missing


def _found_missing() -> str:
    if loader.left_out("triton"):
        return loader.LEFT_OUT
    if not _installed("triton"):
        return "triton is not installed; CUDA builds of torch on Linux bring it along"
    if not _installed("sparselth.kernels"):
        return "sparselth.kernels is not installed; run pip install -e ."
    if torch.version.hip is not None:
        return "on AMD GPUs the Triton kernels have not been tried"
    if torch.version.cuda is None:
        return "this torch is a CPU-only build"
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    if (capability := torch.cuda.get_device_capability()) < (8, 0):
        return f"triton needs compute capability 8.0, this GPU has {'.'.join(map(str, capability))}"
    return _why_no_launcher()


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _why_no_launcher() -> str:
    """Say what triton lacks to build the C code that launches its kernels."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton needs a C compiler: install gcc, or set CC"
    headers = sysconfig.get_paths()["include"]
    if not (Path(headers) / "Python.h").exists():
        return f"triton needs Python.h, which is not in {headers}: install python3-dev"
    return ""


@cache
def kernel(op: str) -> Callable[..., Any]:
    """Return the launcher of an op's Triton kernel."""
    if op in gpu_conv.OPS:
        return getattr(gpu_conv, op)
    module = importlib.import_module(f"sparselth.kernels.{op.rstrip('_')}")
    return getattr(module, op)


def serving(op: str) -> Callable[..., Any]:
    """Return the launcher of an op's Triton kernel, or the reference where it cannot run."""
    if not why_missing():
        return kernel(op)
    _warn_once(why_missing())
    return getattr(reference, op)


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"sparselth's Triton kernels cannot run here, plain PyTorch takes their place: {reason}",
        stacklevel=2,
    )


def register(op: str) -> None:
    """Let the Triton kernel serve an op's CUDA tensors."""
    if torch.version.cuda is None or not _installed("triton"):
        return  # to the dispatcher, the reference serves CUDA tensors like any others

    def run(*arguments):
        # Asked at the first call: a query at import would initialise CUDA in every process.
        return serving(op)(*arguments)

    torch.library.register_kernel(f"{NAMESPACE}::{op}", "cuda", checked(op, run))
