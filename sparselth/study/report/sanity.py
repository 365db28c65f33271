"""The section of a report about sanity checks: what is lost when parts of a mask are taken away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .document import Section, Table, interval_text, percent


def sanity(summary: Mapping[str, Any]) -> Section:
    rows = [
        [
            *(row["model"], row["data"], f"{row['learning_rate']:g}", row["generator"]),
            *(percent(row["sparsity"]), row["check"], row["takes"]),
            *(f"{row['mean']:+.2f}", interval_text(row), str(row["seeds"]), row["needed"]),
        ]
        for row in summary.get("sanity", [])
    ]
    if not rows:
        return Section("Sanity checks")
    gap = summary["config"]["thresholds"]["gap"]
    text = (
        "The ticket minus the same with a part of the mask taken away, in points, paired by seed. "
        "Each layer keeps as many weights: at other places within it (shuffled), those that the "
        "score would prune first (inverted), or the same ones drawn anew (re-init); random masks "
        "have the sparsity alone. A part that is worth no more than "
        f"{gap:g} points is not what the mask is good for (Frankle et al. 2021, arXiv:2009.08576)."
    )
    headers = ["model", "data", "lr", "masks", "sparsity", "check", "takes away"]
    headers += ["mean", "interval", "seeds", f"worth more than {gap:g}"]
    return Section("Sanity checks", [text], [Table(headers, rows)])
