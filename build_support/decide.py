"""Decide what to build, from the environment and the toolchain alone. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .toolchain import Toolchain

MODES = ("auto", "cuda", "cpu", "none")
LIBRARIES = ("_C", "_C_cuda", "_host")
OLDEST_TORCH = (2, 10)
# One cubin per architecture family: 8.0 code runs on every 8.x, 9.0 on 9.0, 10.0 on 10.x, and
# the PTX of the newest is compiled by the driver for whatever comes later.
DEFAULT_ARCHS = (80, 90, 100)


class BuildError(SystemExit):
    """A build that was asked for by name and cannot be done: one sentence, no traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(f"sparselth: {message}")
        self.message = message


@dataclass(frozen=True)
class Decision:
    library: str
    build: bool
    reason: str
    """Why it is not built; empty when it is."""
    required: bool
    """A failing compile stops the installation instead of being recorded."""


def read_mode(env: Mapping[str, str]) -> tuple[str, bool]:
    """Return (SPARSELTH_BUILD, FORCE_CUDA) after checking that they agree."""
    mode = env.get("SPARSELTH_BUILD", "") or "auto"
    if mode not in MODES:
        raise BuildError(f"SPARSELTH_BUILD={mode!r} is unknown; use one of {', '.join(MODES)}")
    force = env.get("FORCE_CUDA", "") not in ("", "0")
    if force and mode in ("cpu", "none"):
        raise BuildError(f"FORCE_CUDA=1 contradicts SPARSELTH_BUILD={mode}; unset one of them")
    return mode, force


def decide(
    env: Mapping[str, str], tools: Toolchain, sources: Mapping[str, Sequence[Path]]
) -> list[Decision]:
    """Return one decision per library, or raise BuildError where a required one is impossible."""
    mode, force = read_mode(env)
    decisions = []
    for library in LIBRARIES:
        is_cuda = library == "_C_cuda"
        required = mode == "cuda" or (mode == "cpu" and not is_cuda) or (force and is_cuda)
        reason = ""
        if mode == "none":
            reason = "SPARSELTH_BUILD=none"
        elif mode == "cpu" and is_cuda:
            reason = "SPARSELTH_BUILD=cpu"
        elif not sources.get(library):
            decisions.append(Decision(library, False, "no source files", False))
            continue
        else:
            reason = obstacle(library, tools, required)
        if reason and required:
            raise BuildError(f"{library} was asked for but cannot be built: {reason}")
        decisions.append(Decision(library, not reason, reason, required))
    return decisions


def obstacle(library: str, tools: Toolchain, asked_for: bool) -> str:
    """Return why `library` cannot be built with these tools, or "" when it can."""
    if tools.cxx is None:
        return "no C++ compiler: install g++, or set CXX"
    if tools.ninja is None:
        return "no ninja: pip install ninja"
    if library == "_host":
        return "" if tools.pybind11 else "no pybind11: pip install pybind11"
    if tools.torch is None:
        return "torch is not installed in the build environment"
    if release(tools.torch.version) < OLDEST_TORCH:
        return f"torch {tools.torch.version} is older than {'.'.join(map(str, OLDEST_TORCH))}"
    return cuda_obstacle(tools, asked_for) if library == "_C_cuda" else ""


def cuda_obstacle(tools: Toolchain, asked_for: bool) -> str:
    assert tools.torch is not None
    if tools.nvcc is None:
        return tools.nvcc_reason
    toolkit = "{}.{}".format(*tools.nvcc.version)
    if tools.torch.cuda is None:
        # Buildable all the same: the library links neither libtorch_cuda nor libcudart.so.
        if asked_for:
            return ""
        return (
            f"torch {tools.torch.version} is a CPU-only build (nvcc {toolkit} is there; "
            "FORCE_CUDA=1 builds anyway)"
        )
    if release(tools.torch.cuda)[0] != tools.nvcc.version[0]:
        return (
            f"nvcc is CUDA {toolkit} but torch {tools.torch.version} was built with CUDA "
            f"{tools.torch.cuda}: the major versions must agree, so set CUDA_HOME to a CUDA "
            f"{release(tools.torch.cuda)[0]} toolkit or install a torch for CUDA "
            f"{tools.nvcc.version[0]}"
        )
    return ""


def release(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version string such as 2.10.0+cu130."""
    major, minor = re.match(r"(\d+)\.(\d+)", version).groups()  # type: ignore[union-attr]
    return int(major), int(minor)


def arch_flags(env: Mapping[str, str], accepted: frozenset[int]) -> tuple[str, list[str]]:
    """Return the architecture list in words and nvcc's -gencode flags for it.

    TORCH_CUDA_ARCH_LIST is honoured ("8.0 9.0a+PTX"; spaces or semicolons). When it is unset the
    default list is clipped to what nvcc accepts, with PTX for the newest entry.
    """
    named = env.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if not named:
        usable = [arch for arch in DEFAULT_ARCHS if arch in accepted] or [max(accepted)]
        named = [f"{arch // 10}.{arch % 10}" for arch in usable]
        named[-1] += "+PTX"
    flags = []
    for name in named:
        found = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if found is None:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST entry {name!r} is not understood; write 9.0, 9.0a or 9.0+PTX"
            )
        number = int(found[1] + found[2])
        if number not in accepted:
            known = ", ".join(f"{arch // 10}.{arch % 10}" for arch in sorted(accepted))
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST asks for {name} but this nvcc accepts only {known}"
            )
        arch = f"{number}{found[3]}"
        flags.append(f"-gencode=arch=compute_{arch},code=sm_{arch}")
        if found[4]:
            flags.append(f"-gencode=arch=compute_{arch},code=compute_{arch}")
    return " ".join(named), flags


def max_jobs(env: Mapping[str, str], cores: int, available_bytes: int) -> int:
    """Return how many compilers to run at once: $MAX_JOBS, else by cores and free memory."""
    named = env.get("MAX_JOBS", "")
    if named:
        if not named.isdigit() or int(named) < 1:
            raise BuildError(f"MAX_JOBS={named!r} is not a positive number")
        return int(named)
    # 2 GiB each: measured need is 0.2-0.5 GB per file, the rest is margin for others.
    return max(1, min(cores, available_bytes // (2 << 30)))
