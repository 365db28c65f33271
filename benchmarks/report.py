"""Turn pytest-benchmark's JSON into tables and a result file that says where it comes from.

python benchmarks/report.py build/bench/*.json [results-name]
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path

import torch
from tables import rows, table

import sparselth
from sparselth.ops import libraries

RESULTS = Path(__file__).resolve().parent / "results"


def version(package: str) -> str:
    """Return the installed version of an optional baseline."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def command(report: dict) -> str:
    """Return what measures this again: all benchmarks, or the files that some are of."""
    ran = sorted({benchmark["fullname"].split("::")[0] for benchmark in report["benchmarks"]})
    every = {f"benchmarks/{path.name}" for path in Path(__file__).parent.glob("bench_*.py")}
    gpu = {path for path in every if path.endswith("_gpu.py")}
    return "make bench" if every - gpu <= set(ran) else f"pytest {' '.join(ran)}"


def merged(reports: Sequence[dict]) -> dict:
    """Return the first report with the benchmarks of all: one run, a process for each file."""
    every = [benchmark for report in reports for benchmark in report["benchmarks"]]
    return {**reports[0], "benchmarks": every}


def main() -> None:
    sources = [Path(argument) for argument in sys.argv[1:] if argument.endswith(".json")]
    names = [argument for argument in sys.argv[1:] if not argument.endswith(".json")]
    report = merged([json.loads(source.read_text(encoding="utf-8")) for source in sources])
    found = rows(report)
    cpu = report["machine_info"]["cpu"]
    host = libraries.host()
    facts = {
        "date": date.today().isoformat(),
        "command": command(report),
        # Brands of virtual machines leave the generation out.
        "cpu": "{brand_raw}, family {family}, model {model}".format_map(defaultdict(str, cpu)),
        "simd": host.simd_level() if host else "no compiled library",
        "threads": sorted({row["threads"] for row in found}),
        "torch": torch.__version__,
        "sparselth": sparselth.__version__,
        "sparseprop": version("sparseprop"),
        "python": report["machine_info"]["python_version"],
        "measure": "minimum of interleaved rounds; × theirs over ours (ours / theirs)",
    }
    text = table(found)
    print(text)
    name = names[0] if names else f"cpu-{facts['simd']}-{facts['date']}"
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps({**facts, "results": found}, indent=1) + "\n", encoding="utf-8")
    head = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    target.with_suffix(".md").write_text(f"# {name}\n\n{head}\n\n{text}", encoding="utf-8")
    print(f"written: benchmarks/results/{target.name}")


if __name__ == "__main__":
    main()
