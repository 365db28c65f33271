"""What the report of a study says, before it is HTML or Markdown: sections of text, tables and
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..analysis.intervals import no_interval
from ..plan.cells import MASKS

Setting = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """headers, and rows of as many cells; a caption above."""

    headers: list[str]
    rows: list[list[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """name: of the file, and for those who cannot see it, what it shows."""

    name: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A title, paragraphs, and what follows them."""

    title: str
    text: list[str] = field(default_factory=list)
    blocks: list[Table | Picture] = field(default_factory=list)


def title(summary: Mapping[str, Any]) -> str:
    config = summary["config"]
    return f"{', '.join(config['models'])} on {', '.join(config['data'])}"


def lead(summary: Mapping[str, Any]) -> str:
    """Say what was run, in a sentence or two."""
    config = summary["config"]
    rates, seeds = config["learning_rates"], config["seeds"]
    at = f"{_counted('learning rate', rates)} {', '.join(f'{rate:g}' for rate in rates)}"
    width = "" if config["width"] == 1.0 else f" at {config['width']:g} of its width"
    searches = sum(cell["protocol"] == MASKS for cell in summary["cells"])
    searched = "one search for masks" if searches == 1 else f"{searches} searches for masks"
    also = f" and {searched}" if searches else ""
    epochs = "one epoch" if config["epochs"] == 1 else f"{config['epochs']} epochs"
    trainings = len(summary["cells"]) - searches
    return (
        f"{title(summary)}{width}: {trainings} trainings of {epochs}{also}, at {at}, "
        f"{len(seeds)} {_counted('seed', seeds)}. Protocols on the same mask train for the same "
        "epochs on the same schedule, with the images in the same order, but for those that say "
        "otherwise."
    )


def _counted(name: str, values: list[Any]) -> str:
    return name if len(values) == 1 else f"{name}s"


def settings(summary: Mapping[str, Any]) -> list[Setting]:
    config = summary["config"]
    return [{"model": m, "data": d} for m in config["models"] for d in config["data"]]


def accuracy_text(row: Mapping[str, Any] | None) -> str:
    """Write an accuracy with its spread; empty where it is missing."""
    if row is None:
        return ""
    spread = f" ± {row['sd']:.1f}" if row["sd"] is not None else ""
    return f"{row['test_accuracy']:.1f}{spread}"


def interval_text(row: Mapping[str, Any]) -> str:
    """Write the interval of a row's mean, or why it has none."""
    if row["low"] is None:
        return no_interval(row["seeds"])
    return f"[{row['low']:+.2f}, {row['high']:+.2f}]"


def percent(share: float) -> str:
    return f"{100 * share:g} %"
