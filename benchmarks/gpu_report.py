"""Build, test and measure on this machine's GPU; write one result file; print a short table last.

Runs offline in the Python it is called with, into which it installs this tree (editable), with the
torch that is there. A part that fails or takes too long is recorded and the next one runs.
`make gpu` calls this.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tables import rows, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build"
BENCHMARKS = {"selection": 60, "convolutions": 110, "steps": 45, "epochs": 35}  # seconds


@dataclass
class Part:
    """One step of the report: what was run, how it ended, and the end of what it printed."""

    name: str
    command: list[str]
    limit_s: int
    status: str = "not run"
    seconds: float = 0.0
    last_line: str = ""

    def run(self) -> None:
        start = time.monotonic()
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        try:
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except OSError as error:
            self.status, output = "failed to start", str(error)
        else:
            output = self._output_of(process)
        self.seconds = round(time.monotonic() - start, 1)
        print(output, flush=True)
        self.last_line = (output.strip().splitlines() or [""])[-1].strip("= ")[:200]

    def _output_of(self, process: subprocess.Popen[str]) -> str:
        """Wait for the end, or bring it about: first as Ctrl-C does, so that pytest still writes
        what it has measured.
        """
        for limit_s, end in (
            (self.limit_s, lambda: process.send_signal(signal.SIGINT)),
            (10, process.kill),
        ):
            try:
                output, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                self.status = f"over {self.limit_s} s"
                end()
            else:
                code = process.returncode
                self.status = self.status if self.status != "not run" else _ended(code)
                return output
        return process.communicate()[0]


def _ended(code: int) -> str:
    return "ok" if code == 0 else f"failed ({code})"


def _json_of(benchmark: str) -> Path:
    return BUILD / f"gpu-{benchmark}.json"


def _sanitizer() -> str:
    """Return compute-sanitizer: on the path, or where the toolkit has it."""
    toolkit = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda")
    beside = toolkit / "bin" / "compute-sanitizer"
    return shutil.which("compute-sanitizer") or str(beside)


def parts() -> list[Part]:
    """Return the steps in order. Together they are to end within 8 minutes."""
    python = sys.executable
    pytest = [python, "-m", "pytest", "-q"]
    install = [python, "-m", "pip", "install", "--no-index", "--disable-pip-version-check"]
    return [
        # Not only built in place: sparselth.kernels is where it is through the installation alone.
        Part("build", [*install, "--no-deps", "--no-build-isolation", "-e", "."], 110),
        Part("tests", [*pytest, "-m", "gpu", "tests", "--ignore=tests/kernels"], 80),
        # Compiling is most of it: on its own, so that it takes nothing from the others.
        Part("tests of Triton", [*pytest, "-m", "gpu", "tests/kernels"], 100),
        *(
            Part(
                f"{name}, measured",
                [*pytest, "benchmarks", "-k", which, f"--benchmark-json={_json_of(name)}"],
                BENCHMARKS[name],
            )
            for name, which in (
                ("convolutions", "bench_masked_conv2d_cuda"),
                ("steps", "bench_training_step_cuda"),
                ("epochs", "bench_training_epoch and cuda"),
                ("selection", "cuda and not conv2d and not training"),
            )
        ),
        # Last: it slows whatever it watches a hundredfold, so it gets one case of each kernel.
        Part(
            "compute-sanitizer",
            [
                *(_sanitizer(), "--error-exitcode", "9", *pytest, "-m", "gpu"),
                *("-k", "sanitized", "tests/ops/test_cuda_kernels.py"),
                "tests/kernels/test_on_device.py",
            ],
            40,
        ),
    ]


def environment() -> dict[str, Any]:
    """Return what a number means nothing without: device, versions, date, command."""
    facts: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": "make gpu",
    }
    try:
        sys.path.insert(0, str(ROOT))
        import torch

        from sparselth import info

        facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        facts["report"] = report = info.collect()
        report["toolkits"].pop("CUDA_HOME", None)  # folders of one machine say nothing elsewhere
        report["build"].pop("cuda_home", None)
    except Exception as error:  # the build may be what is broken; the rest is still wanted
        facts.setdefault("device", "unknown")
        facts["report"] = f"{type(error).__name__}: {error}"
    return facts


def measurements() -> list[dict[str, Any]]:
    """Return what the benchmarks recorded, see `tables.rows`; nothing of those that wrote none."""
    found = []
    for name in BENCHMARKS:
        with suppress(OSError, ValueError, KeyError):
            found += rows(json.loads(_json_of(name).read_text(encoding="utf-8")))
    return found


def main() -> int:
    BUILD.mkdir(exist_ok=True)
    for name in BENCHMARKS:
        _json_of(name).unlink(missing_ok=True)
    steps = parts()
    for step in steps:
        print(f"--- {step.name}", flush=True)
        step.run()
    facts = environment()
    # The interpreter's folder is nobody's business in a file that is kept.
    steps_record = [asdict(step) | {"command": ["python", *step.command[1:]]} for step in steps]
    measured = measurements()
    text = json.dumps(facts | {"parts": steps_record, "measured": measured}, indent=2)
    device = re.sub(r"[^a-z0-9]+", "-", str(facts["device"]).lower()).strip("-")
    # A run without a GPU measures nothing that is worth keeping.
    folder = BUILD if device in ("no-gpu", "unknown") else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{device}-{facts['date'][:10]}.json"
    path.write_text(text.replace(str(ROOT), ".") + "\n", encoding="utf-8")
    summary = f"# {facts['device']}\n\n- date: {facts['date']}\n- command: make gpu\n\n"
    path.with_suffix(".md").write_text(summary + table(measured), encoding="utf-8")
    print(f"\n{facts['device']}: {path.relative_to(ROOT)}")
    for step in steps:
        print(f"  {step.name:<23} {step.status:<12} {step.seconds:>7.1f} s  {step.last_line}")
    return 0 if all(step.status == "ok" for step in steps) else 1


if __name__ == "__main__":
    raise SystemExit(main())
