"""Whether the Triton kernels can run here, and why not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from .. import libraries

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
    if libraries.left_out("triton"):
        return libraries.LEFT_OUT
    if not installed("triton"):
        return "triton is not installed; CUDA builds of torch on Linux bring it along"
    if not installed("sparselth.kernels"):
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


def installed(module: str) -> bool:
    """Say whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def _why_no_launcher() -> str:
    """Say what triton lacks to build the C code that launches its kernels."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton needs a C compiler: install gcc, or set CC"
    headers = sysconfig.get_paths()["include"]
    if not (Path(headers) / "Python.h").exists():
        return f"triton needs Python.h, which is not in {headers}: install python3-dev"
    return ""
