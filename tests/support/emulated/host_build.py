"""Compile the device code for the host, with AddressSanitizer, optionally with one defect put in.

The sources are those of csrc/cuda, with what they share with the CPU kernels. Only `__shared__`
declarations are rewritten, into calls that hand out poisoned memory (emulation.h); everything else
is the preprocessor's work.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[3]
HERE = ROOT / "tests" / "cuda_emulation"
FLAGS = ["-std=c++20", "-O1", "-g1", "-DSPARSELTH_EMULATION", "-Wno-unknown-pragmas"]
FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off"]


@dataclass(frozen=True)
class Mutant:
    """A defect: `old` occurs once in `file` of csrc/cuda (or csrc) and is replaced by `new`.

    op, dtype: what it is run with.
    """

    name: str
    file: str
    old: str
    new: str
    op: str = "admm_project_"
    dtype: torch.dtype = torch.float32


def compiler() -> str | None:
    """Return the C++ compiler, or None where there is none."""
    return shutil.which("g++")


def for_the_host(source: str) -> str:
    """Rewrite `__shared__ T x[N];` and `extern __shared__ T x[];` for emulation.h."""
    source = re.sub(
        r"extern __shared__ ([\w:<>, ]+?) (\w+)\[\];",
        r"auto* \2 = ::emulation::dynamic_shared<\1>();",
        source,
    )
    return re.sub(
        r"__shared__ ([\w:<>, ]+?) (\w+)((?:\[[^\]]+\])*);",
        r"auto& \2 = ::emulation::shared<std::type_identity_t<\1\3>, __COUNTER__>();",
        source,
    )


def build(
    driver: str = "driver.cpp", mutant: Mutant | None = None, flags: tuple[str, ...] = ()
) -> Path:
    """Return the emulation program; compiled once per content of its sources."""
    files = {path.name: path.read_text() for path in sorted((ROOT / "csrc/cuda").glob("*.cu*"))}
    for name in ("common/pattern.h", "common/conv_geometry.h", "common/conv_pass.h"):
        files[name] = (ROOT / "csrc" / name).read_text()
    if mutant is not None:
        if files[mutant.file].count(mutant.old) != 1:
            raise ValueError(f"mutant {mutant.name}: its text must occur once in {mutant.file}")
        files[mutant.file] = files[mutant.file].replace(mutant.old, mutant.new)
    files = {name: for_the_host(text) for name, text in files.items()}
    for name in (
        driver,
        "emulation.h",
        "fiber.h",
        "reading.h",
        "conv_head.h",
        "tensor_core.h",
        "async_copy.h",
    ):
        files[name] = for_the_host((HERE / name).read_text())
    command = [str(compiler()), *FLAGS, *flags]
    key = hashlib.sha256(repr((files, command)).encode()).hexdigest()[:16]
    folder = ROOT / "build" / "emulation" / key
    program = folder / "program"
    if not program.exists():
        (folder / "common").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        part = folder / "program.part"
        subprocess.run([*command, f"-I{folder}", str(folder / driver), "-o", str(part)], check=True)
        part.rename(program)
    return program


def run(program: Path, request: bytes) -> tuple[bytes, str]:
    """Run a program on encoded cases; return its output and, when it failed, what it said."""
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": ""}
    done = subprocess.run([str(program)], input=request, capture_output=True, env=env, timeout=120)
    complaint = done.stderr.decode(errors="replace") if done.returncode else ""
    return done.stdout, complaint
