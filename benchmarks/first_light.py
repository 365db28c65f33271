"""The first minutes with a GPU: what the design hangs on is measured, what can be wrong is tried.

python3 benchmarks/first_light.py 1 [--built]     ceilings, tests of CUDA, cuDNN, our convolutions
python3 benchmarks/first_light.py 2 [--built]     steps, the host, lists, tests of Triton, ncu,
                                                  compute-sanitizer

Each ends within GPU_REPORT_SECONDS (330). --built takes the native libraries that are there instead
of building them first. Every line is in $OUT (else build/) at once, and the ratios are printed
last. Without a GPU, TRITON_INTERPRET=1 tries all of it on small shapes.

What is decided by what: ceilings and cuDNN are the true baseline; blocks, scattered masks and TMA
the rates by which kernels are chosen, and which kernel is worth writing; steps say what is won in
the end; the host and the lists where time goes beside the kernels.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from gpu_report import (
    PYTEST,
    PYTHON,
    TESTS,
    TESTS_OF_TRITON,
    build,
    link_kernels,
    sanitized,
    shared_by,
)
from parts import ROOT, Part, run_all, summary
from tables import short_table

OUT = Path(os.environ.get("OUT") or ROOT / "build")
SECONDS = 330
TABLE_CHARACTERS, SUMMARY_CHARACTERS = 7000, 2500

# The kernels that ncu looks at, by their names in the sources.
PROFILED = "regex:correlate|sum_blocks|pack_blocks|pack_wide|add_splits|halo_blocks|column_vectors"


def experiment(name: str, seconds: float, rows: Path) -> Part:
    """Return an experiment of `experiments.py`; what it keeps goes to `rows`."""
    command = [PYTHON, "benchmarks/experiments.py", name]
    return Part(name, command, seconds, ("torch", "triton"), {"SPARSELTH_BENCH_ROWS": str(rows)})


def profiled() -> list[str]:
    """Return one call of the convolutions' kernels, on a layer that fills a GPU, under ncu."""
    sections = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "WarpStateStats")
    ncu = ["ncu", "--clock-control", "none", "--kernel-name", PROFILED, "--launch-count", "24"]
    wanted = [word for section in sections for word in ("--section", section)]
    script = [
        PYTHON,
        "benchmarks/single_kernels.py",
        "--large",
        "blocks",
        "tma_blocks",
        "halo_block",
        "column_vector",
    ]
    return [*ncu, *wanted, *script]


def parts(call: str, rows: Path) -> list[Part]:
    """Return the parts of call "1" or "2"."""
    # Beside the rows: what they mean nothing without.
    facts = [PYTHON, "benchmarks/machine.py", str(rows.with_suffix(".machine.json"))]
    machine = Part("machine", facts, 30, ("torch",))
    if call == "1":
        return [
            machine,
            experiment("ceilings", 40, rows),
            Part("tests of CUDA", [*PYTEST, *shared_by(6), *TESTS], 75, ("pytest",)),
            experiment("dense", 45, rows),
            experiment("blocks", 80, rows),
            experiment("scattered", 45, rows),
            experiment("tma", 50, rows),
        ]
    convolutions = [*TESTS_OF_TRITON, "-k", "convolution"]
    return [
        machine,
        experiment("steps", 70, rows),
        experiment("host", 30, rows),
        experiment("lists", 20, rows),
        Part(
            "tests of Triton",
            [*PYTEST, *shared_by(12), *convolutions],
            100,
            ("pytest", "hypothesis", "triton"),
        ),
        Part("ncu", profiled(), 45, ("torch", "triton")),
        Part("compute-sanitizer", sanitized(), 60, ("torch", "triton")),
    ]


def kept_in(rows: Path) -> list[dict]:
    """Return what the experiments kept."""
    text = rows.read_text(encoding="utf-8") if rows.exists() else ""
    return [json.loads(row) for row in text.split("\n")[:-1]]  # a kill may have cut the last


def main() -> int:
    words = [word for word in sys.argv[1:] if word != "--built"]
    if words not in (["1"], ["2"]):
        print(__doc__)
        return 2
    (call,) = words
    OUT.mkdir(parents=True, exist_ok=True)
    log, rows = (OUT / f"first-light-{call}{ending}" for ending in (".log", ".jsonl"))
    for old in (log, rows):
        old.unlink(missing_ok=True)
    link_kernels()
    todo = [*([] if "--built" in sys.argv else [build()]), *parts(call, rows)]
    seconds = float(os.environ.get("GPU_REPORT_SECONDS") or SECONDS)
    try:
        run_all(todo, log, seconds, lambda: None)
    finally:  # also when it is ended from outside
        show(todo, log, rows)
    return 0 if all(part.status == "ok" for part in todo) else 1


def show(todo: list[Part], log: Path, rows: Path) -> None:
    """Print how the parts ended, what no kernel beats, and last the ratios."""
    found = kept_in(rows)
    print(f"\nall that was printed: {log.name}; all that was measured: {rows.name}")
    print(summary(todo, SUMMARY_CHARACTERS))
    for row in found:
        if row["op"].startswith("ceiling"):
            print(f"  {row['op']}, {row['problem']}: {row['values']['us']} us", _rate(row))
    print(short_table(found, TABLE_CHARACTERS))


def _rate(row: dict) -> str:
    return next((f"{row[unit]} {unit}" for unit in ("TB_per_s", "TF") if unit in row), "")


if __name__ == "__main__":
    raise SystemExit(main())
