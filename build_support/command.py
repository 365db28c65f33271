"""setuptools' build_ext: compile each library through ninja, print and record what was built.

ninja makes rebuilds incremental (headers through depfiles, flags through the command line).
torch.utils.cpp_extension is not used: it imports torch to build, fails with an IndexError when
no GPU and no arch list is there, and takes a wrapper script on the path for a CUDA toolkit.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from setuptools.command.build_ext import build_ext

from . import decide as rules
from .toolchain import Toolchain, probe

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "_C": sorted((ROOT / "csrc" / "cpu").glob("*.cpp")),
    "_C_cuda": sorted((ROOT / "csrc" / "cuda").glob("*.cu")),
    "_host": sorted((ROOT / "csrc" / "host").glob("*.cpp")),
}
RECORD = "_build_info.json"
TORCH_TARGET = "0x020a000000000000"

# No -march=native: the instruction set is chosen at run time inside the sources.
CXX_FLAGS = ["-std=c++20", "-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-fPIC", "-Wall"]
CXX_FLAGS += ["-Wno-psabi", "-DNDEBUG"]
NVCC_FLAGS = ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-DNDEBUG"]
STABLE_ABI = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]


def library_file(name: str) -> str:
    """Return the file name of a library; only `_host` is a Python module."""
    return name + (sysconfig.get_config_var("EXT_SUFFIX") if name == "_host" else ".so")


class BuildNative(build_ext):
    """Build what the toolchain allows and write `_build_info.json` beside the Python sources."""

    def run(self) -> None:
        env = os.environ
        tools = probe(env)
        in_place = self.inplace or self.editable_mode
        package = (ROOT if in_place else Path(self.build_lib).resolve()) / "sparselth"
        package.mkdir(parents=True, exist_ok=True)
        decisions = rules.decide(env, tools, SOURCES)
        if tools.nvcc is not None and any(d.build and d.library == "_C_cuda" for d in decisions):
            for left_out in rules.architectures(env, tools.nvcc.archs).left_out:
                print(f"sparselth: TORCH_CUDA_ARCH_LIST: left out: {left_out}")
        record: dict[str, Any] = describe(env, tools)
        # An editable install gets a temporary build_temp; a fixed folder keeps it incremental.
        folder = (ROOT / "build" if in_place else Path(self.build_temp).resolve()) / "native"
        folder.mkdir(parents=True, exist_ok=True)
        write_ninja(folder, env, tools, [d for d in decisions if d.build])
        jobs = rules.max_jobs(env, os.cpu_count() or 1, available_memory())
        for decision in decisions:
            target = package / library_file(decision.library)
            reason = decision.reason
            if decision.build:
                reason = run_ninja(folder, tools, target.name, jobs)
                if reason and decision.required:
                    raise rules.BuildError(f"{decision.library} failed to compile: {reason}")
            if reason:
                # What is loaded must be what this record describes.
                target.unlink(missing_ok=True)
            else:
                replace_file(folder / target.name, target)
            record["libraries"][decision.library] = {"built": not reason, "reason": reason}
        (package / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(summary(record))

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "sparselth"
        names = [RECORD, *map(library_file, SOURCES)]
        return [str(package / name) for name in names if (package / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def describe(env: Any, tools: Toolchain) -> dict[str, Any]:
    """Return the record of this build, its libraries still to be filled in."""
    nvcc = tools.nvcc
    return {
        "mode": rules.read_mode(env)[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "compiler": tools.cxx_version,
        "torch": tools.torch.version if tools.torch else None,
        "torch_cuda": tools.torch.cuda if tools.torch else None,
        "torch_target": TORCH_TARGET,
        "nvcc": "{}.{}".format(*nvcc.version) if nvcc else None,
        "cuda_home": str(nvcc.home) if nvcc else None,
        "nvcc_missing": tools.nvcc_reason,
        "cuda_archs": rules.architectures(env, nvcc.archs).words if nvcc else None,
        "cxx_flags": " ".join([*CXX_FLAGS, *shlex.split(env.get("CXXFLAGS", ""))]),
        "nvcc_flags": " ".join(NVCC_FLAGS),
        "libraries": {},
    }


def write_ninja(
    folder: Path, env: Any, tools: Toolchain, decisions: Sequence[rules.Decision]
) -> None:
    """Write build.ninja: one target per library that is to be built."""
    includes = [f"-I{ROOT / 'csrc'}"]
    prefix_map = f"-ffile-prefix-map={ROOT}/="
    lines = ["ninja_required_version = 1.5"]

    def rule(name: str, command: list[str], compiles: bool) -> None:
        lines.extend([f"rule {name}", "  command = " + " ".join(escape(c) for c in command)])
        lines.append(f"  description = {name} $out")
        if compiles:
            lines.extend(["  depfile = $out.d", "  deps = gcc"])

    depend = ["-MD", "-MF", "$out.d", "-c", "$in", "-o", "$out"]
    own_cxx, own_link = (shlex.split(env.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS"))
    link = [str(tools.cxx), "-shared", *own_link, "$in", "-o", "$out"]
    for library in (decision.library for decision in decisions):
        if library == "_host":
            python = sysconfig.get_paths()["include"]
            system = ["-isystem", str(tools.pybind11), "-isystem", python]
            compiler = [str(tools.cxx), *CXX_FLAGS, *own_cxx, prefix_map]
            link_flags: list[str] = []
        else:
            assert tools.torch is not None
            system = ["-isystem", str(tools.torch.root / "include")]
            compiler = [str(tools.cxx), *CXX_FLAGS, *own_cxx, prefix_map, *STABLE_ABI]
            # No rpath: torch is imported first, the loader then finds libtorch_cpu by its name.
            link_flags = [f"-L{tools.torch.root / 'lib'}", "-ltorch_cpu", "-Wl,-z,defs"]
        if library == "_C_cuda":
            assert tools.nvcc is not None
            compiler = [str(tools.nvcc.path), f"-ccbin={tools.cxx}", *NVCC_FLAGS, *STABLE_ABI]
            compiler += [f"-Xcompiler={prefix_map}", "-DUSE_CUDA"]
            compiler += rules.architectures(env, tools.nvcc.archs).flags
            if env.get("NVCC_THREADS"):
                compiler.append(f"--threads={env['NVCC_THREADS']}")
            # The static runtime: the library then loads beside any torch, CPU-only ones included.
            link_flags += [f"-L{tools.nvcc.home / 'lib64'}", "-lcudart_static", "-ldl", "-lrt"]
            link_flags += ["-lpthread", "-Wl,--exclude-libs,ALL"]
        rule(f"compile{library}", [*compiler, *includes, *system, *depend], compiles=True)
        rule(f"link{library}", [*link, *link_flags], compiles=False)
        objects = []
        for source in SOURCES[library]:
            objects.append(f"{library}/{source.stem}.o")
            lines.append(f"build {objects[-1]}: compile{library} {escape_path(source)}")
        lines.append(f"build {library_file(library)}: link{library} {' '.join(objects)}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n", encoding="utf-8")


def escape(word: str) -> str:
    """Quote a word for the shell; $in and $out are ninja's own."""
    return word if re.fullmatch(r"[-\w$./=+,:@]+", word) else "'" + word.replace("$", "$$") + "'"


def escape_path(path: Path) -> str:
    return re.sub(r"([$ :])", r"$\1", str(path))


def run_ninja(folder: Path, tools: Toolchain, target: str, jobs: int) -> str:
    """Build one target; return "" or one line that says what failed (the log goes to stderr)."""
    assert tools.ninja is not None
    command = [tools.ninja, "-C", str(folder), "-j", str(jobs), target]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode == 0:
        return ""
    print(done.stdout, file=sys.stderr)
    lines = done.stdout.splitlines()
    errors = [line for line in lines if re.search(r"\berror\b|\bfatal\b|undefined ref", line)]
    return (errors or lines[-1:] or ["ninja failed"])[0].strip()[:300]


def replace_file(source: Path, target: Path) -> None:
    """Put a new file in place by renaming: a process that has the old one mapped keeps it."""
    temporary = target.with_name(target.name + ".new")
    shutil.copy2(source, temporary)
    os.replace(temporary, target)


def available_memory() -> int:
    """Return the bytes a new process can have, or 4 GiB where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        return 4 << 30


def summary(record: dict[str, Any]) -> str:
    """Return the build record as a few lines of text."""
    lines = ["", "sparselth build summary"]
    for name, state in record["libraries"].items():
        lines.append(
            f"  {name:<8} {'built' if state['built'] else 'not built: ' + state['reason']}"
        )
    lines.append(f"  compiler {record['compiler'] or 'none'}")
    lines.append(f"  torch    {record['torch'] or 'none'} (stable ABI target 2.10)")
    if record["nvcc"]:
        lines.append(f"  nvcc     {record['nvcc']}, archs {record['cuda_archs']}")
    else:
        lines.append(f"  nvcc     none: {record['nvcc_missing']}")
    return "\n".join(lines) + "\n"
