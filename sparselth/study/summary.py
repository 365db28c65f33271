"""Turn the cells of a study into tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from ..pruning import sparsity as measured_sparsity
from ..training import History
from .cells import Cell
from .config import StudyConfig
from .generators import FoundMasks

FORMAT = 1


def history_rows(histories: Mapping[Cell, History]) -> list[dict[str, Any]]:
    """List every epoch of every cell."""
    return [
        {**_place(cell), "protocol": cell.protocol}
        | {("epoch_learning_rate" if k == "learning_rate" else k): v for k, v in record.items()}
        for cell, history in histories.items()
        for record in history.to_rows()
    ]


def summarise(
    config: StudyConfig,
    histories: Mapping[Cell, History],
    found: Mapping[Cell, FoundMasks],
    overlaps: list[dict[str, Any]],
    timing: list[dict[str, Any]],
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Gather all results. Accuracies are in percent, after the last epoch."""
    return {
        "format": FORMAT,
        "config": config.to_dict(),
        "environment": environment,
        "cells": [
            {**_place(cell), "protocol": cell.protocol, "test_accuracy": history.test_accuracy}
            for cell, history in histories.items()
            if cell.protocol != "search"
        ],
        "masks": [
            {**_place(cell), "measured_sparsity": measured_sparsity(masks.masks), **masks.report}
            for cell, masks in found.items()
        ],
        "overlaps": overlaps,
        "timing": timing,
        "seconds_per_epoch": [
            {**_place(cell), "protocol": cell.protocol, "seconds": history.seconds_per_epoch}
            for cell, history in histories.items()
        ],
    }


def summary_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Average the accuracies over seeds: a row per learning rate, generator, sparsity, protocol.

    `sd` is the sample standard deviation, empty for a single seed; `against_dense` is in points.
    """
    groups: dict[tuple[Any, ...], list[float]] = {}
    for cell in summary["cells"]:
        key = (cell["learning_rate"], cell["generator"], cell["sparsity"], cell["protocol"])
        groups.setdefault(key, []).append(cell["test_accuracy"])
    means = {key: statistics.fmean(values) for key, values in groups.items()}
    return [
        {
            "learning_rate": key[0],
            "generator": key[1],
            "sparsity": key[2],
            "protocol": key[3],
            "seeds": len(values),
            "test_accuracy": means[key],
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "against_dense": means[key] - means[key[0], "", 0.0, "dense"],
        }
        for key, values in groups.items()
    ]


def mean_overlap(
    summary: dict[str, Any], pair: str, p: float, share_of: str, **place: Any
) -> float | None:
    """Average one R_p over seeds; None where the study has none."""
    values = [
        row["overlap"]
        for row in summary["overlaps"]
        if (row["pair"], row["p"], row["share_of"]) == (pair, p, share_of)
        and all(row[name] == value for name, value in place.items())
    ]
    return statistics.fmean(values) if values else None


def _place(cell: Cell) -> dict[str, Any]:
    return {
        "learning_rate": cell.learning_rate,
        "seed": cell.seed,
        "generator": cell.generator,
        "sparsity": cell.sparsity,
    }
