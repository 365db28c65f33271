"""Build, test and measure on this machine's GPU; write down what is found; print a table last.

python3 benchmarks/gpu_report.py [--built]        `make gpu` calls this

Runs offline in the Python it is called with, with the packages that are there: a part that needs
others is left out and says so. The native libraries are built in place; --built takes those that
are there. A part that fails or takes too long is recorded and the next one runs; all of them end
within GPU_REPORT_SECONDS (540). What was found so far is written after every part, beside the other
results and, where OUT names a folder, there as well.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from parts import ROOT, Part, missing, run_all, summary
from tables import short_table, table

RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build"
OUT = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
LOG = (OUT or BUILD) / "gpu-report.log"
ROWS = (OUT or BUILD) / "gpu-report-rows.jsonl"
MACHINE = BUILD / "gpu-report-machine.json"

# For all parts together, unless GPU_REPORT_SECONDS says otherwise: a remote command may end at 600.
SECONDS = 540
# What comes back from a remote command is the end of its output.
TABLE_CHARACTERS, SUMMARY_CHARACTERS = 7000, 3000

PYTHON = sys.executable
PYTEST = [PYTHON, "-m", "pytest", "-q", "-m", "gpu"]
PYTEST += ["--continue-on-collection-errors"]  # what a module lacks is no reason to try no other
# By name: importing all the others takes longer than these do.
TESTS = (
    *("tests/cuda_emulation/test_on_device.py", "tests/training/test_step.py"),
    *("tests/training/test_loop.py", "tests/pruning/test_controls.py"),
)
TESTS_OF_TRITON = (
    "tests/kernels/test_kernels_on_device.py",
    "tests/kernels/test_masked_conv2d_on_device.py",
)
# What is measured, and within how many seconds. What says most comes first, here and in each file.
MEASURED = {
    "convolutions": (["benchmarks/bench_masked_conv2d_gpu.py"], 120),
    "steps": (["benchmarks/bench_training_step_gpu.py"], 70),
    "epochs": (["benchmarks/bench_training_epoch.py", "-k", "cuda"], 40),
    "lists": (
        [
            *("benchmarks/bench_masked_sgd.py", "benchmarks/bench_masked_adamw.py"),
            *("benchmarks/bench_admm_project.py", "benchmarks/bench_weight_overlap.py"),
            *("-k", "cuda"),
        ],
        40,
    ),
}


def parts(built: bool = False) -> list[Part]:
    """Return the parts, what is worth most first. built: the libraries are there."""
    found = [Part("machine", [PYTHON, "benchmarks/machine.py", str(MACHINE)], 60, ("torch",))]
    if not built:
        found.insert(0, build())
    found.append(Part("tests", [*PYTEST, *shared_by(6), *TESTS], 80, ("pytest",)))
    rows = {"SPARSELTH_BENCH_ROWS": str(ROWS)}
    if missing(["pytest"]):  # the shorter experiments need nothing but torch and triton
        light = [PYTHON, "benchmarks/experiments.py", "dense", "blocks", "scattered", "steps"]
        found.append(Part("experiments", light, 200, ("torch", "triton"), rows))
    for name, (files, seconds) in MEASURED.items():
        command = [PYTHON, "-m", "pytest", "-q", *files]
        found.append(Part(f"{name}, measured", command, seconds, ("pytest", "triton"), rows))
    return [
        *found,
        Part("compute-sanitizer", sanitized(), 60, ("torch", "triton")),
        # Compiling is nearly all of it, hundreds of kernels: as much as there is time for.
        Part(
            "tests of Triton",
            [*PYTEST, *shared_by(12), *TESTS_OF_TRITON],
            200,
            ("pytest", "hypothesis", "triton"),
        ),
    ]


def build() -> Part:
    """Return the part that compiles the native libraries, without pip."""
    command = [PYTHON, "setup.py", "--quiet", "build_ext", "--inplace"]
    return Part("build", command, 120, ("torch", "setuptools"), architecture())


def shared_by(processes: int) -> list[str]:
    """Return what lets pytest share its tests, where pytest-xdist is there."""
    return [] if missing(["xdist"]) else ["-n", str(processes)]


def architecture() -> dict[str, str]:
    """Build for the GPU that is here alone, unless something else is asked for."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST") or not shutil.which("nvidia-smi"):
        return {}
    ask = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=20)
    found = re.match(r"\d+\.\d+", done.stdout)
    return {"TORCH_CUDA_ARCH_LIST": found[0]} if done.returncode == 0 and found else {}


def sanitized() -> list[str]:
    """Return one small call of every kernel under compute-sanitizer, without a test runner."""
    toolkit = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda")
    beside = toolkit / "bin" / "compute-sanitizer"
    sanitizer = shutil.which("compute-sanitizer") or str(beside)
    return [sanitizer, "--error-exitcode", "9", PYTHON, "benchmarks/single_kernels.py"]


def link_kernels() -> None:
    """Let `sparselth.kernels` be imported where sparselth is not installed: without pip."""
    try:
        importlib.metadata.distribution("sparselth")
    except importlib.metadata.PackageNotFoundError:
        link = ROOT / "sparselth" / "kernels"
        if not link.exists():
            link.symlink_to(Path("..") / "kernels", target_is_directory=True)


def measurements() -> list[dict[str, Any]]:
    """Return what was recorded so far, in the order it was measured."""
    text = ROWS.read_text(encoding="utf-8") if ROWS.exists() else ""
    # A row that a kill cut off has no end of line.
    found = [json.loads(row) for row in text.split("\n")[:-1]]
    return [row for row in found if row.get("ratios")]


def found_so_far(steps: list[Part]) -> dict[str, Any]:
    """Return the whole result: machine, parts, measurements."""
    facts: dict[str, Any] = {"device": "unknown"}
    with suppress(FileNotFoundError):  # until its part has run; how that ended is among the parts
        facts = json.loads(MACHINE.read_text(encoding="utf-8"))
    facts |= {"date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    # The interpreter's folder is nobody's business in a file that is kept.
    record = [asdict(step) | {"command": _without_folders(step.command)} for step in steps]
    return facts | {"command": "make gpu", "parts": record, "measured": measurements()}


def _without_folders(command: list[str]) -> list[str]:
    return ["python" if word == PYTHON else word.replace(str(ROOT), ".") for word in command]


def write(steps: list[Part]) -> None:
    """Write what there is so far, to $OUT and, from a GPU, beside the other results."""
    found = found_so_far(steps)
    device = re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
    # A run without a GPU measures nothing that is worth keeping.
    kept = device not in ("no-gpu", "unknown")
    targets = [RESULTS / f"{device}-{found['date'][:10]}" if kept else BUILD / "gpu-report"]
    targets += [OUT / "gpu-report"] if OUT else []
    head = "\n".join(f"- {key}: {found[key]}" for key in ("date", "command"))
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=2).replace(str(ROOT), ".")
        target.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
        tables = f"# {found['device']}\n\n{head}\n\n{table(found['measured'])}"
        target.with_suffix(".md").write_text(tables, encoding="utf-8")


def main() -> int:
    BUILD.mkdir(exist_ok=True)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    for old in (LOG, ROWS, MACHINE):
        old.unlink(missing_ok=True)
    link_kernels()
    steps = parts(built="--built" in sys.argv[1:])
    seconds = float(os.environ.get("GPU_REPORT_SECONDS") or SECONDS)
    try:
        run_all(steps, LOG, seconds, lambda: write(steps))
    finally:  # also when it is ended from outside
        show(steps)
    return 0 if all(step.status == "ok" for step in steps) else 1


def show(steps: list[Part]) -> None:
    """Print how the parts ended, and last the table."""
    found = found_so_far(steps)
    print(f"\n{found['device']}; all that was printed: {LOG.name}")
    print(summary(steps, SUMMARY_CHARACTERS))
    print(short_table(found["measured"], TABLE_CHARACTERS))


if __name__ == "__main__":
    raise SystemExit(main())
