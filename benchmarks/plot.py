"""Draw speed-up against sparsity from recorded results, the break-even marked.

python benchmarks/plot.py [results.json] [picture.png]
Default: the newest of benchmarks/results/cpu-*.json, to docs/cpu-speedup.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparselth.bench.ratios import Points, break_even, position

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "cpu-speedup.png"

# Okabe and Ito's colors, which color-blind readers can tell apart; dashed in the second round.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":")
PANELS = {"masked_conv2d": "one convolution", "training step": "whole training step"}


def newest(folder: Path) -> Path:
    """Return the CPU results with the latest date in them, of those that fill every panel."""
    dated = []
    for path in folder.glob("cpu-*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if PANELS.keys() <= {row["op"] for row in record["results"]}:
            dated.append((record["date"], path))
    if not dated:
        raise SystemExit(f"no results of {' and '.join(PANELS)} in {folder}; run: make bench")
    return max(dated)[1]


def lines_of(results: list[dict[str, Any]], op: str) -> dict[str, Points]:
    """Return the speed-ups of an op, by problem."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in results:
        if row["op"] == op:
            lines.setdefault(row["problem"], []).append((row["sparsity"], row["speedup"]))
    return {problem: sorted(points) for problem, points in lines.items()}


def draw(record: dict[str, Any]) -> Figure:
    """Draw a panel for the layers and one for the networks."""
    figure = Figure(figsize=(11, 5.2))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (op, title) in zip(panels, PANELS.items(), strict=True):
        draw_panel(panel, lines_of(record["results"], op))
        panel.set_title(title, fontsize=11)
    panels[0].set_ylabel("times faster than the best dense fp32")
    drawn = {row["threads"] for row in record["results"] if row["op"] in PANELS}
    threads = ", ".join(str(n) for n in sorted(drawn))
    figure.suptitle(
        f"{record['cpu']} ({record['simd']}), {threads} threads, torch {record['torch']}, "
        f"{record['date']}",
        fontsize=10,
    )
    return figure


def draw_panel(panel: Axes, lines: dict[str, Points]) -> None:
    """Draw one line per problem; a ring where it crosses the break-even line."""
    for i, (problem, points) in enumerate(lines.items()):
        style = {
            "color": COLORS[i % len(COLORS)],
            "linestyle": DASHES[i // len(COLORS) % len(DASHES)],
        }
        xs, ys = [position(s) for s, _ in points], [y for _, y in points]
        panel.plot(xs, ys, marker="o", markersize=3.5, linewidth=1.6, label=problem, **style)
        crossing = break_even(points)
        if crossing is not None:
            ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none"}
            panel.plot(crossing, 1, color=style["color"], **ring)
    panel.axhline(1, color="black", linewidth=1.2)
    panel.annotate(
        "break-even",
        (1, 1),
        (-4, 4),
        ("axes fraction", "data"),
        "offset points",
        fontsize=9,
        ha="right",
    )
    style_axes(panel, sorted({s for points in lines.values() for s, _ in points}))


def style_axes(panel: Axes, sparsities: list[float]) -> None:
    """Label both logarithmic axes with plain numbers."""
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    panel.set_xticks([position(s) for s in sparsities], [f"{100 * s:g}" for s in sparsities])
    panel.set_xlabel("sparsity, %")
    panel.grid(alpha=0.25)
    panel.tick_params(labelleft=True)
    panel.legend(fontsize=8, loc="upper left")


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else newest(ROOT / "benchmarks" / "results")
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else TARGET
    record = json.loads(source.read_text(encoding="utf-8"))
    draw(record).savefig(target, dpi=120)
    print(f"{source.name} -> {target}")


if __name__ == "__main__":
    main()
