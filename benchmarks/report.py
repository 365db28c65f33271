"""Turn pytest-benchmark's JSON into a table and a result file that says where it comes from.

python benchmarks/report.py build/bench.json [results-name]
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

import sparselth
from sparselth.ops import loader

RESULTS = Path(__file__).resolve().parent / "results"


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what `compare` recorded, one dict per benchmark."""
    return [b["extra_info"] for b in report["benchmarks"] if "speedup" in b["extra_info"]]


def table(found: list[dict[str, Any]]) -> str:
    """Render Markdown: one line per op and problem, the speed-up at each sparsity."""
    lines = []
    for op, device in dict.fromkeys((row["op"], row["device"]) for row in found):
        mine = [row for row in found if (row["op"], row["device"]) == (op, device)]
        sparsities = sorted({row["sparsity"] for row in mine})
        lines += ["", f"### {op} ({device})", ""]
        lines.append("| problem | " + " | ".join(f"{100 * s:g} %" for s in sparsities) + " |")
        lines.append("|---|" + "---:|" * len(sparsities))
        for problem in dict.fromkeys(row["problem"] for row in mine):
            cells = []
            for sparsity in sparsities:
                hits = [r for r in mine if r["problem"] == problem and r["sparsity"] == sparsity]
                cells.append(cell(hits[0]) if hits else "")
            lines.append(f"| {problem} | " + " | ".join(cells) + " |")
    return "\n".join(lines).strip() + "\n"


def cell(row: dict[str, Any]) -> str:
    """Render one measurement: speed-up (milliseconds of ours / of the best baseline)."""
    ours = row["milliseconds"][row["subject"]]
    return f"{row['speedup']:.2f}× ({ours:.2f} / {ours * row['speedup']:.2f} ms)"


def main() -> None:
    source = Path(sys.argv[1])
    report = json.loads(source.read_text(encoding="utf-8"))
    found = rows(report)
    cpu = report["machine_info"]["cpu"]
    host = loader.host()
    facts = {
        "date": date.today().isoformat(),
        "command": "make bench",
        "cpu": cpu.get("brand_raw", "unknown"),
        "simd": host.simd_level() if host else "no compiled library",
        "threads": sorted({row["threads"] for row in found}),
        "torch": torch.__version__,
        "sparselth": sparselth.__version__,
        "python": report["machine_info"]["python_version"],
        "measure": "minimum of interleaved rounds; speed-up is the best baseline over ours",
    }
    text = table(found)
    print(text)
    name = sys.argv[2] if len(sys.argv) > 2 else f"cpu-{facts['simd']}-{facts['date']}"
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps({**facts, "results": found}, indent=1) + "\n", encoding="utf-8")
    head = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    target.with_suffix(".md").write_text(f"# {name}\n\n{head}\n\n{text}", encoding="utf-8")
    print(f"written: benchmarks/results/{target.name}")


if __name__ == "__main__":
    main()
