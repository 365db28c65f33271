"""Find out what is there to build with. Reads files and asks compilers; never asks for a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

USUAL_TOOLKIT_FOLDER = Path("/usr/local/cuda")


@dataclass(frozen=True)
class Torch:
    version: str
    cuda: str | None
    """CUDA version torch was built with, as in `torch.version.cuda`."""
    root: Path


@dataclass(frozen=True)
class Nvcc:
    path: Path
    home: Path
    version: tuple[int, int]
    archs: frozenset[int]
    """Compute capabilities it can compile for, 90 for 9.0."""


@dataclass(frozen=True)
class Toolchain:
    cxx: str | None
    cxx_version: str
    ninja: str | None
    torch: Torch | None
    pybind11: Path | None
    nvcc: Nvcc | None
    nvcc_reason: str
    """Why `nvcc` is None."""


Run = Callable[[list[str]], str]


def run_quietly(command: list[str]) -> str:
    """Return stdout and stderr of a command, or "" when it cannot be run or fails."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def probe(env: Mapping[str, str] = os.environ) -> Toolchain:
    """Describe the toolchain of this machine and this Python environment."""
    cxx = find_cxx(env)
    nvcc, nvcc_reason = find_nvcc(env)
    return Toolchain(
        cxx=cxx,
        cxx_version=(run_quietly([cxx, "--version"]).splitlines() or [""])[0] if cxx else "",
        ninja=find_ninja(),
        torch=find_torch(),
        pybind11=find_pybind11(),
        nvcc=nvcc,
        nvcc_reason=nvcc_reason,
    )


def find_cxx(env: Mapping[str, str]) -> str | None:
    """Return the C++ compiler: $CXX, else g++, c++ or clang++ from the path."""
    names = [env["CXX"]] if env.get("CXX") else ["g++", "c++", "clang++"]
    return next((found for found in map(shutil.which, names) if found), None)


def find_ninja() -> str | None:
    """Return the ninja program: the one of the `ninja` Python package, else from the path."""
    if importlib.util.find_spec("ninja"):
        import ninja

        program = Path(ninja.BIN_DIR) / "ninja"
        if program.exists():
            return str(program)
    return shutil.which("ninja")


def find_torch() -> Torch | None:
    """Return where torch lies and what it was built with, without the cost of importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    if not (root / "version.py").exists():
        return None
    facts = runpy.run_path(str(root / "version.py"))
    return Torch(str(facts["__version__"]), facts.get("cuda"), root)


def find_pybind11() -> Path | None:
    """Return the include folder of the `pybind11` Python package."""
    if importlib.util.find_spec("pybind11") is None:
        return None
    import pybind11

    return Path(pybind11.get_include())


def find_nvcc(env: Mapping[str, str], run: Run = run_quietly) -> tuple[Nvcc | None, str]:
    """Return the CUDA compiler, or None and one sentence that says why there is none.

    $CUDA_HOME (or $CUDA_PATH) is believed when it is set. Otherwise nvcc is taken from the path,
    and asked where its toolkit lies: the file on the path may be a wrapper script, so the folder
    above it says nothing.
    """
    named = env.get("CUDA_HOME") or env.get("CUDA_PATH")
    if named:
        home = Path(named)
        if not is_toolkit(home):
            missing = "bin/nvcc" if (home / "include").exists() else "include/cuda_runtime.h"
            return None, f"CUDA_HOME={named} holds no CUDA toolkit ({missing} is not there)"
        return describe_nvcc(home / "bin" / "nvcc", home, run)
    on_path = shutil.which("nvcc", path=env.get("PATH"))
    candidates = (
        [toolkit_of(on_path, run), Path(on_path).resolve().parent.parent] if on_path else []
    )
    candidates.append(USUAL_TOOLKIT_FOLDER)
    for home in candidates:
        if home is not None and is_toolkit(home):
            return describe_nvcc(home / "bin" / "nvcc", home.resolve(), run)
    if on_path:
        return (
            None,
            "nvcc is on the path but its toolkit was not found: set CUDA_HOME to its folder",
        )
    return None, "no nvcc: neither CUDA_HOME nor the path leads to a CUDA toolkit"


def is_toolkit(home: Path) -> bool:
    return (home / "include" / "cuda_runtime.h").exists() and (home / "bin" / "nvcc").exists()


def toolkit_of(nvcc: str, run: Run) -> Path | None:
    """Ask nvcc for its toolkit folder: a dry run prints `#$ TOP=<folder>`."""
    found = re.search(r"^#\$ TOP=(.+)$", run([nvcc, "--dryrun", "-c", "x.cu"]), re.MULTILINE)
    return Path(found[1].strip()).resolve() if found else None


def describe_nvcc(path: Path, home: Path, run: Run) -> tuple[Nvcc | None, str]:
    version = re.search(r"release (\d+)\.(\d+)", run([str(path), "--version"]))
    if version is None:
        return None, f"{path} does not answer --version with a release number"
    archs = re.findall(r"compute_(\d+)", run([str(path), "--list-gpu-arch"]))
    return Nvcc(path, home, (int(version[1]), int(version[2])), frozenset(map(int, archs))), ""
