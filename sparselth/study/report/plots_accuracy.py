"""Plots of accuracy, differences and time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..analysis.tables import accuracy_rows
from ..plan.protocols import LABELS, PROTOCOLS
from .document import Setting
from .panels import (
    BLACK,
    BLUE,
    PROTOCOL_STYLES,
    RED,
    Axes,
    Named,
    fits,
    legend,
    panel_of,
    series_color,
    sparsity_axis,
)

_CONTESTANTS = {
    "sparse": ("sparse (ours)", BLUE),
    "dense_masked": ("dense, masks multiplied in", RED),
    "dense": ("dense, no masks", "#BBBBBB"),
}
_DIFFERENCES = (("ticket", "reinit"), ("finetune", "ticket"), ("rewind", "ticket"))


def accuracies(summary: dict[str, Any], setting: Setting) -> Iterator[Named]:
    """Accuracy over sparsity, one for each generator and learning rate."""
    config = summary["config"]
    rows = [r for r in accuracy_rows(summary) if fits(r, setting)]
    for generator in config["generators"]:
        for rate in config["learning_rates"]:
            here = [r for r in rows if r["learning_rate"] == rate]
            if not here:
                continue
            title = f"{generator} masks, learning rate {rate:g}"
            figure, panel = panel_of(title, "sparsity, %", "test accuracy, %")
            _dense_line(panel, here)
            for protocol in config["protocols"]:
                masked = generator if PROTOCOLS[protocol].masked else ""
                line = [r for r in here if (r["generator"], r["protocol"]) == (masked, protocol)]
                _line(panel, line, config["sparsities"], protocol)
            sparsity_axis(panel, config["sparsities"])
            legend(panel)
            yield (
                f"accuracy-{generator}-lr{rate:g}",
                f"Test accuracy over sparsity with {title}: dense and every protocol",
                figure,
            )


def _dense_line(panel: Axes, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["protocol"] == "dense":
            mean, sd = row["test_accuracy"], row["sd"] or 0.0
            panel.axhline(mean, color=BLACK, linestyle="--", label="dense")
            panel.axhspan(mean - sd, mean + sd, color=BLACK, alpha=0.1)


def _line(panel: Axes, rows: list[dict[str, Any]], sparsities: list[float], protocol: str) -> None:
    """Draw the means of a protocol with the standard deviation of seeds."""
    if not rows:
        return
    color, marker = PROTOCOL_STYLES[protocol]
    line = sorted(rows, key=lambda row: row["sparsity"])
    panel.errorbar(
        [sorted(sparsities).index(row["sparsity"]) for row in line],
        [row["test_accuracy"] for row in line],
        yerr=[row["sd"] or 0.0 for row in line],
        color=color,
        marker=marker,
        markersize=4,
        linestyle=":" if PROTOCOLS[protocol].differs else "-",
        capsize=3,
        label=LABELS[protocol],
    )


def differences(summary: dict[str, Any], setting: Setting) -> Iterator[Named]:
    """Differences over sparsity with their intervals, one for each pair and learning rate."""
    config = summary["config"]
    rows = [r for r in summary["differences"] if fits(r, setting)]
    for first, second in _DIFFERENCES:
        for rate in config["learning_rates"]:
            mine = [r for r in rows if (r["first"], r["second"]) == (first, second)]
            mine = [r for r in mine if r["learning_rate"] == rate]
            if not mine:
                continue
            words = f"{LABELS[first]} minus {LABELS[second]}"
            figure, panel = panel_of(f"{words}, learning rate {rate:g}", "sparsity, %", "points")
            panel.axhline(0, color=BLACK, linewidth=0.8)
            for offset, generator in enumerate(config["generators"]):
                line = [r for r in mine if r["generator"] == generator]
                _intervals(panel, line, config["sparsities"], offset, generator)
            sparsity_axis(panel, config["sparsities"])
            legend(panel)
            yield (
                f"difference-{first}-{second}-lr{rate:g}",
                f"Accuracy of {words} over sparsity at learning rate {rate:g}, with intervals",
                figure,
            )


def _intervals(
    panel: Axes, rows: list[dict[str, Any]], sparsities: list[float], offset: int, label: str
) -> None:
    if not rows:
        return
    places = [sorted(sparsities).index(r["sparsity"]) + 0.08 * offset for r in rows]
    below = [0.0 if r["low"] is None else r["mean"] - r["low"] for r in rows]
    above = [0.0 if r["high"] is None else r["high"] - r["mean"] for r in rows]
    panel.errorbar(
        places,
        [r["mean"] for r in rows],
        yerr=[below, above],
        color=series_color(offset),
        marker="o",
        markersize=4,
        linestyle="none",
        capsize=3,
        label=label,
    )


def times(summary: dict[str, Any], setting: Setting) -> Iterator[Named]:
    """Seconds per epoch, sparse and dense, per sparsity."""
    rows = [r for r in summary["timing"] if fits(r, setting)]
    if not rows:
        return
    environment = summary["environment"]
    figure, panel = panel_of(
        f"{environment['device']}, {environment['threads']} thread(s)",
        "sparsity, and how many times as fast as masked dense",
        "seconds per training epoch",
        width=max(4.6, 1.1 * len(rows) + 1.5),
    )
    for offset, (name, (label, color)) in enumerate(_CONTESTANTS.items()):
        places = [x + 0.27 * (offset - 1) for x in range(len(rows))]
        heights = [row[f"{name}_seconds"] for row in rows]
        bars = panel.bar(places, heights, width=0.25, color=color, label=label)
        panel.bar_label(bars, fmt="%.3g", fontsize=7)
    panel.set_xticks(
        range(len(rows)),
        [f"{100 * r['sparsity']:g} %\n{r['speedup_over_dense_masked']:.2f} x" for r in rows],
    )
    panel.margins(y=0.1)  # room for the figures above the bars
    legend(panel)
    yield "time", "Seconds per training epoch, sparse and dense, at each sparsity", figure
