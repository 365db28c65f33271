"""The environment report of `sparselth info`: what is here, what was built, what serves each op.

Made to be pasted into a bug report, so it must come out on a half-broken machine too: every
probe is guarded, and only the standard library and torch are needed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("sparselth", "torch", "numpy", "triton", "torchvision", "safetensors")


def collect() -> dict[str, Any]:
    """Return the report's facts as plain dictionaries, lists and strings (fit for JSON)."""
    probes: dict[str, Callable[[], Any]] = {
        "versions": _versions,
        "system": _system,
        "cpu": _cpu,
        "gpus": _gpus,
        "toolkits": _toolkits,
        "libraries": _libraries,
        "build": _build,
        "ops": _ops,
    }
    return {name: _guarded(probe) for name, probe in probes.items()}


def render(facts: dict[str, Any] | None = None) -> str:
    """Return the report as text; collects the facts when none are given."""
    facts = collect() if facts is None else facts
    lines: list[str] = []
    for title, content in facts.items():
        lines.append(title)
        if isinstance(content, dict):
            width = max(map(len, content), default=0)
            lines += [f"  {key:<{width}}  {_inline(value)}" for key, value in content.items()]
        elif isinstance(content, list):
            lines += [f"  {_inline(value)}" for value in content] or ["  none"]
        else:
            lines.append(f"  {content}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _guarded(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    except Exception as error:  # a report that fails is no report
        return f"unknown ({type(error).__name__}: {error})"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["torch"] = torch.__version__  # with the +cu or +cpu that the metadata may lack
    return found


def _system() -> dict[str, str]:
    return {"os": platform.platform(), "machine": platform.machine()}


def _cpu() -> dict[str, Any]:
    from .ops import libraries

    host = libraries.host()
    return {
        "model": _guarded(_cpu_model),
        "simd": host.simd_level() if host else _guarded(_simd_without_host),
        "cores": _guarded(lambda: len(os.sched_getaffinity(0))),
        "torch threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown"


def _simd_without_host() -> str:
    return f"{torch.backends.cpu.get_cpu_capability()} (according to torch)"


def _gpus() -> list[str]:
    if torch.version.cuda is None:
        return ["none: this torch is a CPU-only build"]
    if not torch.cuda.is_available():
        return ["none that torch can use"]
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gpus.append(
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.1f} GiB"
        )
    return gpus


def _toolkits() -> dict[str, str]:
    return {
        "torch built with CUDA": str(torch.version.cuda),
        "CUDA_HOME": os.environ.get("CUDA_HOME", "not set"),
        "nvcc": _guarded(_nvcc_version),
        "g++": _guarded(lambda: _first_line(["g++", "--version"])),
    }


def _nvcc_version() -> str:
    home = os.environ.get("CUDA_HOME")
    program = str(Path(home) / "bin" / "nvcc") if home else shutil.which("nvcc")
    if program is None:
        return "not on the path"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    found = re.search(r"release [\d.]+", done.stdout)
    return found[0] if found else "does not answer"


def _first_line(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return "not on the path"
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return (done.stdout.splitlines() or ["does not answer"])[0]


def _libraries() -> dict[str, str]:
    from .ops import libraries
    from .ops.gpu import triton_support

    found = {s.name: "loaded" if s.loaded else f"no: {s.reason}" for s in libraries.status()}
    missing = triton_support.why_missing()
    return {**found, "Triton kernels": f"no: {missing}" if missing else "ready"}


def _build() -> dict[str, Any]:
    from .ops import libraries

    record = libraries.build_info()
    if not record:
        return {"record": "none: sparselth was not built in this place"}
    return {key: value for key, value in record.items() if key != "libraries" and value}


def _ops() -> dict[str, list[str]]:
    from .ops.backends import backends

    kernels: dict[str, list[str]] = {}
    for report in backends():
        found = kernels.setdefault(report.op, [])
        if report.available:
            found.append(report.backend)
    return kernels
