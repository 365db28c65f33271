"""Plots of R_p, the overlap of the largest weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..analysis.overlaps import (
    DENSE_PAIR,
    REINIT_PAIR,
    TICKET_PAIR,
    TUNED_PAIR,
)
from ..analysis.tables import mean_overlap
from ..plan.percentages import MAIN_P, PERCENTAGES
from ..plan.protocols import LABELS, PROTOCOLS
from .document import Setting
from .panels import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PROTOCOL_STYLES,
    Axes,
    Named,
    chance_band,
    chance_line,
    fits,
    legend,
    or_nan,
    panel_of,
    series_color,
    sparsity_axis,
)

_PAIRS = {
    TICKET_PAIR: ("ticket's start", BLUE),
    REINIT_PAIR: ("re-init's start", ORANGE),
    TUNED_PAIR: ("pre-trained", GREEN),
}


def overlaps(summary: dict[str, Any], setting: Setting) -> Iterator[Named]:
    yield _over_p(summary, setting)
    yield from _over_epochs(summary, setting)
    yield from _of_starts(summary, setting)
    yield _by_layer(summary, setting)


def _over_p(summary: dict[str, Any], setting: Setting) -> Named:
    """R_p of the initial and the pre-trained network, over p."""
    figure, panel = panel_of("initial against pre-trained network", "p", "$R_p$")
    for i, rate in enumerate(summary["config"]["learning_rates"]):
        values = [
            or_nan(mean_overlap(summary, DENSE_PAIR, p, "all", learning_rate=rate, **setting))
            for p in PERCENTAGES
        ]
        panel.plot(
            PERCENTAGES, values, marker="o", color=series_color(i), label=f"learning rate {rate:g}"
        )
    rows = [r for r in summary["overlaps"] if fits(r, setting) and r["pair"] == DENSE_PAIR]
    spread = {r["p"]: r["chance_sd"] for r in rows}
    chance_band(panel, PERCENTAGES, PERCENTAGES, [or_nan(spread.get(p)) for p in PERCENTAGES])
    panel.plot(PERCENTAGES, PERCENTAGES, color=BLACK, linestyle=":", label="chance, ± 2 sd")
    panel.set_ylim(0, 1.02)
    legend(panel)
    return (
        "overlap-dense",
        "Overlap R_p of initial and trained weights over p at each learning rate, with chance",
        figure,
    )


def _over_epochs(summary: dict[str, Any], setting: Setting) -> Iterator[Named]:
    """R_p against the start while training: one of pre-training, one for each learning rate."""
    rows = [r for r in summary["traces"] if fits(r, setting)]
    label = f"$R_{{{MAIN_P:g}}}$ against the start"
    figure, panel = panel_of("dense pre-training", "epoch", label)
    for i, rate in enumerate(summary["config"]["learning_rates"]):
        _trace(panel, rows, "dense", rate, series_color(i), f"learning rate {rate:g}")
    _band(panel, summary, {**setting, "share_of": "all"})
    yield "overlap-training", "Overlap with the initial weights during pre-training", figure
    for rate in summary["config"]["learning_rates"]:
        figure, panel = panel_of(f"on the masks, learning rate {rate:g}", "epoch", label)
        for protocol in summary["config"]["protocols"]:
            if PROTOCOLS[protocol].masked:
                color = PROTOCOL_STYLES[protocol][0]
                _trace(panel, rows, protocol, rate, color, LABELS[protocol])
        _band(panel, summary, {**setting, "share_of": "remaining", "learning_rate": rate})
        yield (
            f"overlap-training-lr{rate:g}",
            f"Overlap with the start during training on masks at learning rate {rate:g}, mean of "
            "all masks",
            figure,
        )


def _trace(
    panel: Axes, rows: list[dict[str, Any]], protocol: str, rate: float, color: str, label: str
) -> None:
    """Draw the mean over all masks of a protocol."""
    epochs: dict[int, list[float]] = {}
    for row in rows:
        if (row["protocol"], row["learning_rate"]) == (protocol, rate):
            epochs.setdefault(row["epoch"], []).append(row["overlap"])
    if epochs:
        by_epoch = {0: [1.0], **epochs}  # before the first step it is the start itself
        means = [sum(values) / len(values) for values in by_epoch.values()]
        panel.plot(list(by_epoch), means, marker=".", color=color, label=label)


def _band(panel: Axes, summary: dict[str, Any], place: Setting) -> None:
    """Draw chance, with the widest spread that any network of a place has."""
    rows = [r for r in summary["overlaps"] if fits(r, place) and r["p"] == MAIN_P]
    if rows:
        spread = max(r["chance_sd"] for r in rows)
        chance_band(panel, panel.get_xlim(), [MAIN_P] * 2, [spread] * 2)
    chance_line(panel, "chance, ± 2 sd")


def _of_starts(summary: dict[str, Any], setting: Setting) -> Iterator[Named]:
    """R_p of the fine-tuned network and each start over sparsity, a figure per mask and rate."""
    config = summary["config"]
    sparsities = sorted(config["sparsities"])
    rows = [r for r in summary["overlaps"] if fits(r, setting) and r["p"] == MAIN_P]
    for generator in config["generators"]:
        for rate in config["learning_rates"]:
            place = {**setting, "learning_rate": rate, "generator": generator}
            mine = [r for r in rows if fits(r, place) and r["pair"] in _PAIRS]
            if not any(r["pair"] == TUNED_PAIR for r in mine):
                continue
            title = f"fine-tuned against its starts\n{generator} masks, learning rate {rate:g}"
            figure, panel = panel_of(title, "sparsity, %", f"$R_{{{MAIN_P:g}}}$")
            for pair, (label, color) in _PAIRS.items():
                values = [
                    mean_overlap(summary, pair, MAIN_P, "remaining", **place, sparsity=sparsity)
                    for sparsity in sparsities
                ]
                heights = [or_nan(value) for value in values]
                panel.plot(range(len(values)), heights, marker="o", color=color, label=label)
            spread = [
                or_nan(max((r["chance_sd"] for r in mine if r["sparsity"] == s), default=None))
                for s in sparsities
            ]
            chance_band(panel, range(len(spread)), [MAIN_P] * len(spread), spread)
            sparsity_axis(panel, sparsities)
            chance_line(panel, "chance, ± 2 sd")
            yield (
                f"overlap-starts-{generator}-lr{rate:g}",
                f"Overlap of the network fine-tuned on {generator} masks with each start over "
                f"sparsity at learning rate {rate:g}, and chance",
                figure,
            )


def _by_layer(summary: dict[str, Any], setting: Setting) -> Named:
    """R_p of the initial and the pre-trained network in every layer."""
    figure, panel = panel_of(
        "initial against pre-trained, by layer", "prunable layer, in order", f"$R_{{{MAIN_P:g}}}$"
    )
    rows = [r for r in summary["layer_overlaps"] if fits(r, setting) and r["pair"] == DENSE_PAIR]
    for i, rate in enumerate(summary["config"]["learning_rates"]):
        mine = [r for r in rows if r["learning_rate"] == rate]
        values, places = [r["overlap"] for r in mine], range(1, len(mine) + 1)
        label = f"learning rate {rate:g}"
        panel.plot(places, values, marker=".", color=series_color(i), label=label)
        if i == 0:  # the layers are the same at every rate
            spread = [r["chance_sd"] for r in mine]
            chance_band(panel, places, [MAIN_P] * len(spread), spread)
    chance_line(panel, "chance, ± 2 sd")
    return "overlap-layers", "Overlap of initial and trained weights in every layer", figure
