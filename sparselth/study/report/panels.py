"""What the plots of a study share: colors, panels, and small drawing steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import SparselthError
from ..plan.percentages import MAIN_P
from .document import Setting

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise SparselthError(
        "a study draws its plots with matplotlib, which is not installed; run: "
        "pip install 'sparselth[study]'"
    ) from error

# Okabe and Ito's colors, which color-blind readers can tell apart.
BLACK, BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GRAY, BROWN = (
    "#000000",
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#B5A900",
    "#777777",
    "#8C564B",
)
PROTOCOL_STYLES = {
    "dense": (BLACK, ""),
    "ticket": (BLUE, "o"),
    "reinit": (ORANGE, "s"),
    "finetune": (GREEN, "^"),
    "rewind": (RED, "v"),
    "shuffle": (PURPLE, "D"),
    "lr-rewind": (SKY, "<"),
    "small-lr": (YELLOW, ">"),
    "small-dense": (GRAY, "P"),
    "scratch-e": (BROWN, "X"),
    "scratch-b": (BROWN, "*"),
}
_SERIES = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GRAY)
# File name, what it shows, and the figure.
Named = tuple[str, str, Figure]


def panel_of(title: str, xlabel: str, ylabel: str, width: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 3.5))
    figure.set_layout_engine("constrained")
    panel = figure.subplots()
    panel.set_title(title, fontsize=10)
    panel.set_xlabel(xlabel)
    panel.set_ylabel(ylabel)
    panel.grid(alpha=0.3)
    return figure, panel


def series_color(i: int) -> str:
    """Return the color of the i-th of any number of lines."""
    return _SERIES[i % len(_SERIES)]


def sparsity_axis(panel: Axes, sparsities: list[float]) -> None:
    panel.set_xticks(range(len(sparsities)), [f"{100 * s:g}" for s in sorted(sparsities)])


def chance_line(panel: Axes, label: str = "chance") -> None:
    """Draw what the main R_p is by chance, and the legend."""
    panel.axhline(MAIN_P, color=BLACK, linestyle=":", label=label)
    panel.set_ylim(0, 1.02)
    legend(panel)


def legend(panel: Axes) -> None:
    """Explain the lines below the axes, where they hide nothing."""
    handles, labels = panel.get_legend_handles_labels()
    if handles:
        assert isinstance(panel.figure, Figure)
        panel.figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)


def or_nan(value: float | None) -> float:
    """Return a value, or what leaves a gap in a line."""
    return float("nan") if value is None else value


def chance_band(panel: Axes, places: Sequence[float], at: Sequence[float], sd: list[float]) -> None:
    """Draw two standard deviations around what is expected by chance; a NaN leaves a gap."""
    below = [mean - 2 * spread for mean, spread in zip(at, sd, strict=True)]
    above = [mean + 2 * spread for mean, spread in zip(at, sd, strict=True)]
    panel.fill_between(places, below, above, color="#DDDDDD")


def fits(row: dict[str, Any], setting: Setting) -> bool:
    return all(row[name] == value for name, value in setting.items())
