"""Turn pytest-benchmark's JSON into tables and a result file that says where it comes from.

python benchmarks/report.py build/bench.json [results-name]
"""

from __future__ import annotations

import json
import sys
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import sparselth
from sparselth.ops import loader

RESULTS = Path(__file__).resolve().parent / "results"


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was recorded, one dict per benchmark."""
    infos = [b["extra_info"] for b in report["benchmarks"]]
    return [info for info in infos if "ratios" in info or "parts" in info]


def table(found: list[dict[str, Any]]) -> str:
    """Render Markdown: one section per op and device, in it one table per ratio."""
    lines = []
    for op, device in dict.fromkeys((row["op"], row["device"]) for row in found):
        mine = [row for row in found if (row["op"], row["device"]) == (op, device)]
        lines += ["", f"### {op} ({device})"]
        for over in dict.fromkeys(over for row in mine for over in row.get("ratios", ())):
            lines += ["", f"× {over}:", "", *ratio_lines(mine, over)]
        for problem in dict.fromkeys(row["problem"] for row in mine if "parts" in row):
            profiles = [row for row in mine if row["problem"] == problem and "parts" in row]
            lines += ["", f"{problem}, ms:", "", *profile_lines(profiles)]
    return "\n".join([*lines, *left_out_lines(found)]).strip() + "\n"


def ratio_lines(found: list[dict[str, Any]], over: str) -> list[str]:
    """Render one ratio: a line per problem, a column per sparsity."""
    cells = {
        (r["problem"], r["sparsity"]): cell(r, over) for r in found if over in r.get("ratios", ())
    }
    problems = dict.fromkeys(problem for problem, _ in cells)
    sparsities = sorted({sparsity for _, sparsity in cells})
    return [
        *_head("problem", sparsities),
        *(
            f"| {problem} | " + " | ".join(cells.get((problem, s), "") for s in sparsities) + " |"
            for problem in problems
        ),
    ]


def profile_lines(profiles: list[dict[str, Any]]) -> list[str]:
    """Render one problem's profiles: a line per part, a column per sparsity."""
    profiles = sorted(profiles, key=lambda row: row["sparsity"])
    parts = dict.fromkeys(part for row in profiles for part in row["parts"])
    return [
        *_head("part", [row["sparsity"] for row in profiles]),
        *(
            f"| {part} | " + " | ".join(f"{r['parts'].get(part, 0):.2f}" for r in profiles) + " |"
            for part in parts
        ),
    ]


def _head(first: str, sparsities: list[float]) -> list[str]:
    return [
        f"| {first} | " + " | ".join(f"{100 * s:g} %" for s in sparsities) + " |",
        "|---|" + "---:|" * len(sparsities),
    ]


def cell(row: dict[str, Any], over: str) -> str:
    """Render one measurement: ratio (ours / theirs)."""
    found = row["ratios"][over]
    return f"{found['ratio']:.2f}× ({found['ours']:.2f} / {found['theirs']:.2f} {row['unit']})"


def left_out_lines(found: list[dict[str, Any]]) -> list[str]:
    """Say which baselines were not measured, where and why."""
    where: dict[tuple[str, str], dict[str, None]] = {}
    for row in found:
        for name, reason in row.get("left_out", {}).items():
            where.setdefault((name, reason), {})[row["problem"]] = None
    if not where:
        return []
    lines = [f"- {name}: {reason} ({', '.join(w)})" for (name, reason), w in where.items()]
    return ["", "### Not measured", "", *lines]


def version(package: str) -> str:
    """Return the installed version of an optional baseline."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


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
        "sparseprop": version("sparseprop"),
        "python": report["machine_info"]["python_version"],
        "measure": "minimum of interleaved rounds; × theirs over ours (ours / theirs)",
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
