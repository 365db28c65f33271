"""Made-up toolchains for the tests of the build decisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from build_support.toolchain import Nvcc, Toolchain, Torch

ARCHS = frozenset({75, 80, 86, 89, 90, 100, 120})
NVCC = Nvcc(Path("nvcc"), Path("toolkit"), (13, 0), ARCHS)
COMPLETE = Toolchain(
    cxx="g++",
    cxx_version="g++ 12",
    ninja="ninja",
    torch=Torch("2.15.0+cu132", "13.2", Path("torch")),
    pybind11=Path("pybind11"),
    nvcc=NVCC,
    nvcc_reason="",
)
SOURCES = {name: [Path("x.cpp")] for name in ("_C", "_C_cuda", "_host")}


def tools(**changes) -> Toolchain:
    """Return the complete toolchain with some parts changed."""
    return replace(COMPLETE, **changes)
