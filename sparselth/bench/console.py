"""`sparselth bench` on a screen: what it ran on, and a table per op."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import torch
from rich.table import Table

from ..info import collect
from ..ops import libraries
from ..version import __version__
from .ratios import break_even

Rows = Sequence[dict[str, Any]]


def facts(command: str) -> dict[str, Any]:
    """Return what a number means nothing without."""
    cpu, host = collect()["cpu"], libraries.host()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "date": date.today().isoformat(),
        "command": command,
        "cpu": cpu["model"] if isinstance(cpu, dict) else str(cpu),
        "simd": host.simd_level() if host else "no compiled library",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": gpu,
        "torch": torch.__version__,
        "sparselth": __version__,
        "python": platform.python_version(),
        "measure": "minimum of interleaved rounds; × theirs over ours (ours / theirs)",
    }


def contention(found: dict[str, Any], threads: int) -> str:
    """Say what else ran when the measurement began; "" where there was room for it."""
    free = found["cores"] - found["load"]
    if free >= threads - 0.75:
        return ""
    return (
        f"other programs keep {found['load']:g} of {found['cores']} cores busy, and this computes "
        f"on {threads}: these times say little"
    )


def tables(rows: Rows) -> Iterator[Table]:
    """Yield a table per op: a line per problem and ratio, a column per sparsity."""
    for op in dict.fromkeys(row["op"] for row in rows):
        mine = [row for row in rows if row["op"] == op]
        sparsities = sorted({row["sparsity"] for row in mine})
        title = f"{op}: times as fast as (ours / theirs, ms)"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("problem", no_wrap=True)
        table.add_column("against", min_width=15)
        for sparsity in sparsities:
            table.add_column(f"{100 * sparsity:g} %", justify="right", no_wrap=True)
        if len(sparsities) > 2:
            table.add_column("even at", justify="right")
        for problem in dict.fromkeys(row["problem"] for row in mine):
            ratios = {row["sparsity"]: row["ratios"] for row in mine if row["problem"] == problem}
            for over in dict.fromkeys(over for each in ratios.values() for over in each):
                cells = [_cell(ratios.get(s, {}).get(over)) for s in sparsities]
                points = [(s, ratios[s][over]["ratio"]) for s in sparsities if s in ratios]
                even = [_even(points)] if len(sparsities) > 2 else []
                table.add_row(problem, over, *cells, *even)
        yield table


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['ratio']:.2f} ({found['ours']:.3g} / {found['theirs']:.3g})"


def _even(points: list[tuple[float, float]]) -> str:
    """Return the sparsity from which on sparse wins, between what was measured."""
    where = break_even(points)
    if where is not None:
        return f"{100 * (1 - 10**-where):.0f} %"
    return "below" if points[0][1] >= 1 else "never"
