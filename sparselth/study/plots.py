"""The plots of a study, as PNG files."""

from __future__ import annotations

import io
from typing import Any

from ..errors import SparselthError
from ..files import write_atomically
from .folder import RunFolder
from .overlaps import MAIN_P, PERCENTAGES
from .protocols import LABELS
from .summary import mean_overlap, summary_rows

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise SparselthError(
        "a study draws its plots with matplotlib, which is not installed; run: "
        "pip install 'sparselth[study]'"
    ) from error

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = {
    "dense": "#000000",
    "ticket": "#0072B2",
    "reinit": "#E69F00",
    "finetune": "#009E73",
}
_MARKERS = {"ticket": "o", "reinit": "s", "finetune": "^"}
_PAIRS = {
    "theta_0*m, (theta_T*m)_T": ("ticket's start", "#0072B2"),
    "theta_0'*m, (theta_T*m)_T": ("re-init's start", "#E69F00"),
    "theta_T*m, (theta_T*m)_T": ("pre-trained", "#009E73"),
}
_CONTESTANTS = {
    "sparse": ("sparse (ours)", "#0072B2"),
    "dense_masked": ("dense, masks multiplied in", "#D55E00"),
    "dense": ("dense, no masks", "#999999"),
}


def draw_plots(summary: dict[str, Any], folder: RunFolder) -> list[str]:
    """Draw every plot into the run folder and return their names."""
    plots = {
        "accuracy.png": _accuracy(summary),
        "overlap.png": _overlap(summary),
        "time.png": _time(summary),
    }
    for name, figure in plots.items():
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=120)
        write_atomically(folder.path / name, image.getvalue())
    return list(plots)


def _accuracy(summary: dict[str, Any]) -> Figure:
    """Accuracy over sparsity: a column of panels per learning rate, a row per generator."""
    config = summary["config"]
    rates, generators = config["learning_rates"], config["generators"]
    figure = Figure(figsize=(4.2 * len(rates) + 0.8, 3 * len(generators) + 0.6))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(generators), len(rates), sharey=True, squeeze=False)
    rows = summary_rows(summary)
    for i, generator in enumerate(generators):
        for j, rate in enumerate(rates):
            here = [row for row in rows if row["learning_rate"] == rate]
            _accuracy_panel(panels[i][j], here, generator, config["sparsities"])
            panels[i][j].set_title(f"{generator} masks, learning rate {rate:g}", fontsize=10)
        panels[i][0].set_ylabel("test accuracy, %")
    for panel in panels[-1]:
        panel.set_xlabel("sparsity, %")
    panels[0][0].legend(fontsize=8)
    figure.suptitle(
        f"{config['model']} (width {config['width']:g}) on {config['data']}, "
        f"{config['epochs']} epochs each, {len(config['seeds'])} seed(s)",
        fontsize=11,
    )
    return figure


def _accuracy_panel(
    panel: Axes, rows: list[dict[str, Any]], generator: str, sparsities: list[float]
) -> None:
    dense = next(row for row in rows if row["protocol"] == "dense")
    panel.axhline(
        dense["test_accuracy"], color=_COLOURS["dense"], linestyle="--", label=LABELS["dense"]
    )
    mine = [row for row in rows if row["generator"] == generator]
    for protocol in dict.fromkeys(row["protocol"] for row in mine):
        line = sorted(
            (row for row in mine if row["protocol"] == protocol), key=lambda row: row["sparsity"]
        )
        panel.errorbar(
            [sorted(sparsities).index(row["sparsity"]) for row in line],
            [row["test_accuracy"] for row in line],
            yerr=[row["sd"] or 0.0 for row in line],
            color=_COLOURS.get(protocol),
            marker=_MARKERS.get(protocol, "d"),
            capsize=3,
            label=LABELS.get(protocol, protocol),
        )
    panel.set_xticks(range(len(sparsities)), [f"{100 * s:g}" for s in sorted(sparsities)])
    panel.grid(alpha=0.3)


def _overlap(summary: dict[str, Any]) -> Figure:
    """R_p of initial and pre-trained weights over p, and of the sparse networks at the main p."""
    figure = Figure(figsize=(11, 4.6))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    for rate in summary["config"]["learning_rates"]:
        values = [
            mean_overlap(summary, "theta_0, theta_T", p, "all", learning_rate=rate)
            for p in PERCENTAGES
        ]
        left.plot(PERCENTAGES, values, marker="o", label=f"learning rate {rate:g}")
    left.plot(PERCENTAGES, PERCENTAGES, color="black", linestyle=":", label="chance")
    left.set(xlabel="p", ylabel="$R_p$", title=r"initial against pre-trained network")
    left.legend(fontsize=8)
    left.grid(alpha=0.3)
    _overlap_bars(right, summary)
    return figure


def _overlap_bars(panel: Axes, summary: dict[str, Any]) -> None:
    config = summary["config"]
    places = [
        {"learning_rate": rate, "generator": generator, "sparsity": sparsity}
        for rate in config["learning_rates"]
        for generator in config["generators"]
        for sparsity in config["sparsities"]
    ]
    if "finetune" not in config["protocols"]:
        panel.text(0.5, 0.5, "no fine-tuned network to compare with", ha="center")
        return
    for offset, (pair, (label, colour)) in enumerate(_PAIRS.items()):
        heights = [
            mean_overlap(summary, pair, MAIN_P, "remaining", **place) or 0.0 for place in places
        ]
        xs = [x + 0.27 * (offset - 1) for x in range(len(places))]
        panel.bar(xs, heights, width=0.25, color=colour, label=label)
    spread = max(row["chance_sd"] for row in summary["overlaps"] if row["share_of"] == "remaining")
    panel.axhspan(MAIN_P - 2 * spread, MAIN_P + 2 * spread, color="#DDDDDD", zorder=0)
    panel.axhline(MAIN_P, color="black", linestyle=":", label="chance, 2 sd")
    panel.set_xticks(
        range(len(places)),
        [f"lr {p['learning_rate']:g}\n{p['generator']}\n{100 * p['sparsity']:g} %" for p in places],
        fontsize=7,
    )
    panel.set(ylabel=f"$R_{{{MAIN_P:g}}}$", ylim=(0, 1.15), title="fine-tuned network against ...")
    panel.legend(fontsize=8, ncols=4, loc="upper center")


def _time(summary: dict[str, Any]) -> Figure:
    """Seconds per epoch, sparse and dense, per sparsity."""
    rows = summary["timing"]
    figure = Figure(figsize=(1.8 * len(rows) + 3.5, 4))
    figure.set_layout_engine("constrained")
    panel = figure.subplots()
    for offset, (name, (label, colour)) in enumerate(_CONTESTANTS.items()):
        xs = [x + 0.27 * (offset - 1) for x in range(len(rows))]
        bars = panel.bar(
            xs, [row[f"{name}_seconds"] for row in rows], width=0.25, color=colour, label=label
        )
        panel.bar_label(bars, fmt="%.3g", fontsize=8)
    panel.set_xticks(
        range(len(rows)),
        [
            f"{100 * row['sparsity']:g} % sparse\n{row['speedup_over_dense_masked']:.2f} x"
            for row in rows
        ],
    )
    environment = summary["environment"]
    panel.set_ylabel("seconds per training epoch")
    panel.set_title(f"{environment['device']}, {environment['threads']} thread(s)", fontsize=9)
    panel.margins(y=0.25)  # room for the legend above the bars
    panel.legend(fontsize=8, ncols=3, loc="upper center")
    return figure
