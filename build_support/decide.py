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
OLDEST_ARCH = 80  # bfloat16 on tensor cores

# What torch.utils.cpp_extension and CMake take in TORCH_CUDA_ARCH_LIST, and base images set.
# Longer names first: "Ampere+Tegra" is not "Ampere".
DEFAULT_NAMES = ("all", "common", "auto", "native")
NAMED_ARCHS = {
    "kepler+tesla": "3.7",
    "kepler": "3.5+PTX",
    "maxwell+tegra": "5.3",
    "maxwell": "5.0 5.2+PTX",
    "pascal": "6.0 6.1+PTX",
    "volta+tegra": "7.2",
    "volta": "7.0+PTX",
    "turing": "7.5+PTX",
    "ampere+tegra": "8.7",
    "ampere": "8.0 8.6+PTX",
    "ada": "8.9+PTX",
    "hopper": "9.0+PTX",
    "blackwell+tegra": "11.0",
    "blackwell": "10.0 10.3 12.0 12.1+PTX",
    "rubin": "10.7+PTX",
}


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
            if is_cuda and not reason:
                reason = arch_obstacle(env, tools)
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


def arch_obstacle(env: Mapping[str, str], tools: Toolchain) -> str:
    """Return why there is no architecture to compile for, or "" when there is one."""
    assert tools.nvcc is not None
    found = architectures(env, tools.nvcc.archs)
    if found.words:
        return ""
    named = env.get("TORCH_CUDA_ARCH_LIST")
    return f"nothing is left of TORCH_CUDA_ARCH_LIST={named!r}: " + "; ".join(found.left_out)


def release(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version string such as 2.10.0+cu130."""
    major, minor = re.match(r"(\d+)\.(\d+)", version).groups()  # type: ignore[union-attr]
    return int(major), int(minor)


@dataclass(frozen=True)
class Architectures:
    """What the CUDA kernels are compiled for."""

    words: str
    """The list, as in TORCH_CUDA_ARCH_LIST; empty when nothing is left of it."""
    flags: list[str]
    """nvcc's -gencode flags."""
    left_out: list[str]
    """What the list asks for and is not compiled for, each with the reason."""


def architectures(env: Mapping[str, str], accepted: frozenset[int]) -> Architectures:
    """Return what to compile for.

    TORCH_CUDA_ARCH_LIST is honored: "8.0 9.0a+PTX", with spaces or semicolons, and names such as
    "Hopper". "All", or nothing, is the default list, clipped to what nvcc accepts, with PTX for the
    newest entry. Base images set lists for all their packages: what these kernels or this nvcc
    cannot serve is left out.
    """
    asked = env.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    known = " ".join(NAMED_ARCHS.get(name.lower(), name) for name in asked).split()
    if not known or any(name.lower() in DEFAULT_NAMES for name in known):
        usable = [arch for arch in DEFAULT_ARCHS if arch in accepted] or [max(accepted)]
        known = [f"{arch // 10}.{arch % 10}" for arch in usable]
        known[-1] += "+PTX"
    words, flags, left_out = [], [], []
    for name in dict.fromkeys(known):
        found = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        why = "" if found is None else _why_left_out(int(found[1] + found[2]), accepted)
        if found is None:
            left_out.append(f"{name!r} is not understood; write 9.0, 9.0a, 9.0+PTX or Hopper")
        elif why:
            left_out.append(f"{name} {why}")
        else:
            words.append(name)
            arch = found[1] + found[2] + found[3]
            flags.append(f"-gencode=arch=compute_{arch},code=sm_{arch}")
            if found[4]:
                flags.append(f"-gencode=arch=compute_{arch},code=compute_{arch}")
    return Architectures(" ".join(words), flags, left_out)


def _why_left_out(arch: int, accepted: frozenset[int]) -> str:
    if arch < OLDEST_ARCH:
        return f"is below {OLDEST_ARCH // 10}.{OLDEST_ARCH % 10}, which the kernels need"
    if arch not in accepted:
        known = ", ".join(f"{a // 10}.{a % 10}" for a in sorted(accepted))
        return f"is not among what this nvcc accepts: {known}"
    return ""


def max_jobs(env: Mapping[str, str], cores: int, available_bytes: int) -> int:
    """Return how many compilers to run at once: $MAX_JOBS, else by cores and free memory."""
    named = env.get("MAX_JOBS", "")
    if named:
        if not named.isdigit() or int(named) < 1:
            raise BuildError(f"MAX_JOBS={named!r} is not a positive number")
        return int(named)
    # 2 GiB each: measured need is 0.2-0.5 GB per file, the rest is margin for others.
    return max(1, min(cores, available_bytes // (2 << 30)))
