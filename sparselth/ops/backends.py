"""Which kernel serves an op: what is there, what is chosen, how to force it.

A backend is one implementation of an op: `reference` (plain PyTorch; for a convolution that is
the dense one with the mask applied), `cpu` (C++), `cuda` (CUDA C++), `triton`. The dispatcher picks
the kernel by device; `use_backend` overrides it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import check_name
from ..errors import SparselthError
from . import libraries, reference
from .contract import ALL_SCHEMAS
from .gpu import candidates, launchers
from .switches import forced, forcing

libraries.load()  # before anybody asks what is there

BACKENDS = ("reference", "cpu", "cuda", "triton")
_LIBRARIES = {"cpu": "_C", "cuda": "_C_cuda"}

# The dispatcher has one slot for CUDA tensors. The first of these that is there takes it; an op
# that is not listed has a kernel in _C_cuda or none. Those by mask choose among both.
_ON_CUDA = dict.fromkeys(launchers.OPS, ("cuda", "triton")) | dict.fromkeys(
    launchers.BY_MASK, ("triton",)
)

# From this density on, dense is at least as fast: where the columns of `make bench` cross 1, see
# benchmarks/results/.
_DENSE_FROM_DENSITY = {
    ("masked_conv2d", "cpu"): 0.3,
    # 0.11 on a Zen 4, 0.07 on an Intel Xeon.
    ("masked_linear", "cpu"): 0.07,
    # Of dense cuDNN's time, as expected by `gpu/rates.py`, which is careful already.
    ("masked_conv2d", "cuda"): 0.6,
    ("masked_linear", "cuda"): 0.6,
}

# The same on a CPU in 16 bits, which dense computes in and ours only stores.
_DENSE_FROM_DENSITY_IN_16_BITS = {
    "masked_conv2d": 0.15,
    # Careful, as long as it has not been measured.
    "masked_linear": 0.04,
}


@dataclass(frozen=True)
class BackendReport:
    """One op's kernel on one backend, and why it is missing if it is."""

    op: str
    backend: str
    available: bool
    reason: str


class BackendReports(list[BackendReport]):
    """Reports of every op on every backend. Printed, they are a table."""

    def __str__(self) -> str:
        there = {(report.op, report.backend) for report in self if report.available}
        ops = list(dict.fromkeys(report.op for report in self))
        width = max(map(len, ops), default=0)
        lines = ["  ".join([" " * width, *(name.ljust(5) for name in BACKENDS)]).rstrip()]
        for op in ops:
            marks = (_mark((op, name) in there, name) for name in BACKENDS)
            cells = (
                mark.ljust(max(5, len(name))) for mark, name in zip(marks, BACKENDS, strict=True)
            )
            lines.append("  ".join([op.ljust(width), *cells]).rstrip())
        missing = {name: _why_missing(name) for name in BACKENDS[1:]}
        notes = [f"{name}: {why}" for name, why in missing.items() if why]
        if _mark(True, "cuda") != "yes" and not missing["cuda"]:
            notes.append("cuda: built, and torch sees no GPU to run it on")
        if torch.cuda.is_available():
            notes += ["", "convolutions on this GPU, whichever should be fastest for a mask:"]
            notes += _convolutions_here()
        return "\n".join([*lines, "", *notes]).rstrip()

    __repr__ = __str__


def _convolutions_here() -> Iterator[str]:
    """Say of each kernel what it serves, or why nothing, so that others take its place."""
    device = torch.device("cuda", torch.cuda.current_device())
    for kernel in candidates.KERNELS:
        types = ", ".join(str(dtype).removeprefix("torch.") for dtype in kernel.dtypes)
        what = kernel.why_missing(device) or f"{kernel.serves}; {types}"
        yield f"  {kernel.name.ljust(16)} {what}"


def _mark(available: bool, backend: str) -> str:
    if available and backend == "cuda" and not torch.cuda.is_available():
        return "built"
    return "yes" if available else "-"


def use_backend(name: str) -> AbstractContextManager[None]:
    """Force one backend for every op called inside the `with` block, or the decorated function.

    name: "reference", "cpu", "cuda" or "triton". `reference` computes densely with the mask
    applied, by plain PyTorch, on any device. The others turn the automatic choice of dense for
    masks that are too full off. It holds in the current thread or asynchronous task alone, and for
    the backward of what is computed in it, wherever that runs. A thread started inside does not
    inherit it; run it in `contextvars.copy_context()` if it should.

    Raises SparselthError at the call, before the block is entered, when the name is unknown or the
    backend is not there, with the reason.
    """
    check_name("backend", name, BACKENDS)
    if name != "reference":
        missing = _why_missing(name)
        if missing:
            raise SparselthError(f"backend {name!r} is not available: {missing}")
    return forcing(name)


def implementation(op: str, device: torch.device) -> Callable[..., Any]:
    """Return what computes `op` on `device`: the dispatcher's choice, or the forced backend.

    Raises SparselthError when the forced backend has no kernel for this op or device.
    """
    name = forced()
    if name == "reference":
        return reference.oracle(op)
    on = "cuda" if name == "triton" else name
    if name is not None and (device.type != on or not _has_kernel(op, name)):
        raise SparselthError(
            f"use_backend({name!r}) is on, but it has no kernel of {op} for tensors on "
            f"{device}; use_backend('reference') serves every op everywhere"
        )
    if name == "triton" and op not in launchers.BY_MASK:
        return launchers.kernel(op)
    return getattr(torch.ops.sparselth, op)  # differentiable


def _has_kernel(op: str, backend: str) -> bool:
    if backend == "triton":
        return op in launchers.OPS
    if backend == "cuda" and op in launchers.BY_MASK:
        op = re.sub("masked_(conv2d|linear)", "unstructured_conv2d", op).removesuffix("_relu")
    return libraries.has_kernel(op, backend)


def _first_on_cuda(op: str) -> str:
    return next(backend for backend in _ON_CUDA[op] if _has_kernel(op, backend))


for _op in _ON_CUDA:
    if _first_on_cuda(_op) == "triton":
        launchers.register(_op)


def prefer_dense(
    op: str, device: torch.device, density: float, dtype: torch.dtype = torch.float32
) -> bool:
    """Say whether the dense kernel with the mask applied should serve this mask.

    density: share of the weight that is kept, on a GPU of dense's time, see `plan.work_of`.
    dtype: of the activations.
    """
    if forced() is not None:
        return forced() == "reference"
    if device.type not in _LIBRARIES or not served(op, device.type):
        return True
    if device.type == "cpu" and dtype.itemsize < 4:
        return density >= _DENSE_FROM_DENSITY_IN_16_BITS[op]
    return density >= _DENSE_FROM_DENSITY.get((op, device.type), 1.0)


def served(op: str, device: str) -> bool:
    """Say whether a kernel of ours serves `op` for tensors on this type of device."""
    if libraries.has_kernel(op, device):
        return True
    if device != "cuda" or op not in launchers.OPS:
        return False
    return not launchers.why_missing() or (op in launchers.BY_MASK and _has_kernel(op, "cuda"))


def backends() -> BackendReports:
    """List every op on every backend, with the reason where a kernel is missing.

    Returns a list of a `BackendReport` each: op, backend, available, reason; printed, it is a
    table. What is there, not what is chosen for a mask: `sparselth.profile` says that.
    """
    reports = BackendReports()
    for op in ALL_SCHEMAS:
        reports.append(BackendReport(op, "reference", True, "plain PyTorch"))
        for backend in BACKENDS[1:]:
            missing = _why_missing(backend)
            if not _has_kernel(op, backend):
                missing = missing or "no kernel for this op; reference serves it"
            reports.append(BackendReport(op, backend, not missing, missing or _origin(op, backend)))
    return reports


def _origin(op: str, backend: str) -> str:
    if op in launchers.BY_MASK and backend != "cpu":
        return {"cuda": "_C_cuda, for scattered masks", "triton": "Triton, for blocks"}[backend]
    if backend != "triton":
        return f"compiled in {_LIBRARIES[backend]}"
    first = _first_on_cuda(op)
    return "Triton" if first == "triton" else f"Triton; {first} comes first"


def _why_missing(backend: str) -> str:
    if backend == "triton":
        return launchers.why_missing()
    for library in libraries.status():
        if library.name == _LIBRARIES[backend]:
            return "" if library.loaded else library.reason
    return f"{_LIBRARIES[backend]} is unknown to the loader"
