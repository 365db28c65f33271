"""The tables of a study, as rows of plain values."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from ...training import History
from ..plan.cells import DENSE, MASKS, ROUND, Cell
from ..plan.percentages import PERCENTAGES
from ..plan.protocols import PROTOCOLS


def history_rows(histories: Mapping[Cell, History]) -> list[dict[str, Any]]:
    """List every epoch of every cell."""
    return [
        {**cell.place(), "protocol": cell.protocol}
        | {("epoch_learning_rate" if k == "learning_rate" else k): v for k, v in record.items()}
        for cell, history in histories.items()
        for record in history.to_rows()
    ]


def trace_rows(traces: Mapping[Cell, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """List R_p after every epoch of every training, a column for each p."""
    return [
        {**cell.place(), "protocol": cell.protocol, "epoch": row["epoch"]}
        | {f"overlap_{p:g}": value for p, value in zip(PERCENTAGES, row["overlaps"], strict=True)}
        for cell, trace in traces.items()
        for row in trace
    ]


def accuracy_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Average the accuracies over seeds: a row per setting, learning rate, mask and protocol.

    `sd` is the sample standard deviation, None for a single seed; `against_dense` is in points,
    None where dense training failed.
    """
    names = ("model", "data", "learning_rate", "generator", "sparsity", "protocol")
    groups: dict[tuple[Any, ...], list[float]] = {}
    for cell in summary["cells"]:
        if cell["protocol"] not in (ROUND, MASKS):
            key = tuple(cell[name] for name in names)
            groups.setdefault(key, []).append(cell["test_accuracy"])
    means = {key: statistics.fmean(values) for key, values in groups.items()}
    rows = []
    for key, values in groups.items():
        dense = means.get((*key[:3], "", 0.0, DENSE))
        rows.append(
            dict(zip(names, key, strict=True))
            | {
                "seeds": len(values),
                "test_accuracy": means[key],
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "against_dense": None if dense is None else means[key] - dense,
            }
        )
    return rows


def cost_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Average the wall-clock of each kind of training: a row per setting and kind.

    `seconds` is of one whole training, evaluation left out; `against_dense` is dense pre-training's
    time over this one's, epoch by epoch: above 1 is faster.
    """
    rows = []
    for model, data in dict.fromkeys((c["model"], c["data"]) for c in summary["cells"]):
        mine = [c for c in summary["cells"] if (c["model"], c["data"]) == (model, data)]
        kinds = dict.fromkeys(c["protocol"] for c in mine)
        dense = _median(c["seconds_per_epoch"] for c in mine if c["protocol"] == DENSE)
        for kind in kinds:
            cells = [c for c in mine if c["protocol"] == kind]
            seconds = _median(c["seconds_per_epoch"] for c in cells)
            rows.append(
                {"model": model, "data": data, "kind": kind, "trainings": len(cells)}
                | {"epochs": max(c["epochs"] for c in cells), "seconds_per_epoch": seconds}
                | {"seconds": statistics.fmean(c["seconds"] for c in cells)}
                | {"total_hours": sum(c["seconds"] for c in cells) / 3600}
                | {"against_dense": None if not dense or not seconds else dense / seconds}
            )
    return rows


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


def kind_label(kind: str) -> str:
    """Say what a kind of training is."""
    labels = {DENSE: "dense", ROUND: "rounds of imp", MASKS: "search by admm"}
    return labels[kind] if kind in labels else PROTOCOLS[kind].label


def _median(values: Iterable[float]) -> float:
    numbers = list(values)
    return statistics.median(numbers) if numbers else 0.0
