"""Gather what the cells of a study left behind into one summary: plain values, no tensors."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ...errors import SparselthError
from ...pruning import erk_sparsities
from ...pruning import sparsity as measured_sparsity
from ...pruning.allocation import TOGETHER
from ...training import History
from ..execution.compute import Work
from ..execution.cost import parameters
from ..execution.scheduler import Failure
from ..plan.cells import DENSE, MASKS, Cell, cells
from ..plan.percentages import MAIN_P, PERCENTAGES
from ..plan.protocols import PROTOCOLS, check_same_terms
from . import overlaps
from .claims import claims
from .overlaps import overlap_rows
from .sanity import sanity
from .verdicts import conditions, differences, winning

FORMAT = 3

Weights = dict[str, Tensor]


def gather(
    work: Work,
    histories: Mapping[Cell, History],
    failures: Iterable[Failure],
    timing: list[dict[str, Any]],
    environment: dict[str, Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return all results of a study. Accuracies are in percent, after the last epoch.

    Beside them comes what is too long for a summary: R_p of every layer for every p, averaged over
    seeds. Those of the main p are in the summary, too.

    Raises `SparselthError` should protocols have trained on other terms than each other.
    """
    config = work.config
    done = [cell for cell in cells(config) if cell in histories]
    _check_terms(work, done, histories)
    rows = [row for cell in done if (row := _cell_row(cell, histories[cell]))]
    overlap, by_layer = _overlaps(work, done)
    by_layer = _over_seeds(by_layer, "overlap")
    summary: dict[str, Any] = {
        "format": FORMAT,
        "config": config.to_dict(),
        "environment": environment,
        "cells": rows,
        "masks": [_mask_row(work, cell) for cell in done if cell.protocol == MASKS],
        "small_dense": _small_dense(work, done),
        "overlaps": overlap,
        "layer_overlaps": [row for row in by_layer if row["p"] == MAIN_P],
        "traces": _traces(work, done),
        "timing": timing,
        "failures": [
            {**f.cell.place(), "protocol": f.cell.protocol, "label": f.cell.label}
            | {"error": f.error, "tried": f.cause is None}
            for f in failures
        ],
    }
    summary["differences"] = differences(summary)
    summary["winning"] = winning(summary)
    summary["sanity"] = sanity(summary)
    summary["conditions"] = conditions(summary)
    summary["claims"] = claims(summary)
    return summary, by_layer


def _check_terms(work: Work, done: list[Cell], histories: Mapping[Cell, History]) -> None:
    """See that what is compared was trained on equal terms, by what was recorded of it."""
    config = work.config
    for cell in done:
        if cell.trained and cell.protocol != DENSE:
            shared = config.recipe(cell.learning_rate, cell.seed)
            own = config.protocol_recipe(cell.protocol, cell.learning_rate, cell.seed, 1.0)
            check_same_terms(cell.protocol, own, shared)
            rates = [record.learning_rate for record in histories[cell].records]
            on_schedule = rates == [shared.learning_rate_at(e) for e in range(shared.epochs)]
            if not (on_schedule or PROTOCOLS[cell.protocol].differs):
                raise SparselthError(
                    f"{cell.label} was recorded at learning rates {rates}, which is not the "
                    f"schedule of the study; delete {work.folder.checkpoints(cell.folder).path} to "
                    "train it again"
                )


def _cell_row(cell: Cell, history: History) -> dict[str, Any] | None:
    """Return the result of a cell; None for one that trained nothing."""
    if not len(history):
        return None
    return {
        **cell.place(),
        "protocol": cell.protocol,
        "test_accuracy": history.test_accuracy,
        "train_accuracy": history.records[-1].train_accuracy,
        "epochs": len(history),
        "seconds": sum(record.seconds for record in history.records),
        "seconds_per_epoch": history.seconds_per_epoch,
        "late_gain": _late_gain(history),
    }


def _late_gain(history: History) -> float | None:
    """Return what the last fifth of the epochs, or the last one, still changed, for condition 1.

    None for a single epoch, before which nothing was.
    """
    before = len(history) - 1 - max(1, len(history) // 5)
    if before < 0:
        return None
    return history.test_accuracy - history.records[before].test_accuracy


def _mask_row(work: Work, cell: Cell) -> dict[str, Any]:
    """Describe masks: what they keep, and which layers could not be pruned as asked."""
    result = work.found(cell)
    layers: list[dict[str, Any]] = [
        {
            "layer": name,
            "weights": mask.numel(),
            "kept": int(mask.sum()),
            "sparsity": 1 - int(mask.sum()) / mask.numel(),
        }
        for name, mask in result.masks.items()
    ]
    return {
        **cell.place(),
        "measured_sparsity": measured_sparsity(result.masks),
        **result.report,
        "layers": layers,
        "unreached": _unreached(work.config.allocation, cell.sparsity, result.masks),
    }


def _small_dense(work: Work, done: list[Cell]) -> list[dict[str, Any]]:
    """Count the parameters of small dense networks, beside those that a mask leaves."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in done:
        key = (cell.model, cell.data, cell.sparsity)
        is_small = cell.protocol in PROTOCOLS and not PROTOCOLS[cell.protocol].masked
        if is_small and key not in rows:
            model, target = work.small_dense(cell)
            place = {"model": cell.model, "data": cell.data, "sparsity": cell.sparsity}
            rows[key] = place | {"parameters": parameters(model), "masked_parameters": target}
    return list(rows.values())


def _unreached(allocation: str, sparsity: float, masks: Weights) -> list[dict[str, Any]]:
    """List the layers of too few weights for what was asked of them: one weight stays in each."""
    if allocation in TOGETHER:
        return []
    sparsities = erk_sparsities(masks, sparsity) if allocation == "erk" else {}
    return [
        {"layer": name, "weights": mask.numel(), "asked": share, "reached": 1 - 1 / mask.numel()}
        for name, mask in masks.items()
        if round((share := sparsities.get(name, sparsity)) * mask.numel()) == mask.numel()
    ]


def _overlaps(work: Work, done: list[Cell]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compute R_p of every pair that the paper names, in all and by layer."""
    totals, layers = [], []
    trained = set(done)
    for cell in done:
        if cell.protocol == DENSE:
            networks = {
                "theta_0": _weights(work, cell, work.drawn(cell, "theta_0")),
                "theta_T": _weights(work, cell, work.trained(cell)),
            }
            rows = overlap_rows(cell, networks, (overlaps.DENSE_PAIR,))
        elif cell.protocol == MASKS and cell.generator in work.config.generators:
            rows = _masked_overlaps(work, cell, trained)
        else:
            continue
        for row, by_layer in rows:
            totals.append(row)
            layers += by_layer
    return totals, layers


def _masked_overlaps(
    work: Work, cell: Cell, trained: set[Cell]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    masks = work.masks(cell)
    theta_0 = _weights(work, cell, work.drawn(cell, "theta_0"))
    theta_0_prime = _weights(work, cell, work.drawn(cell, "theta_0_prime"))
    networks = {"theta_0": theta_0, "theta_0*m": theta_0, "theta_0'*m": theta_0_prime}
    if cell.dense() in trained:  # else its checkpoint was damaged since
        networks["theta_T"] = _weights(work, cell, work.trained(cell.dense()))
        networks["theta_T*m"] = networks["theta_T"]
    ends = {"ticket": "(theta_0*m)_T", "reinit": "(theta_0'*m)_T", "finetune": "(theta_T*m)_T"}
    for protocol, name in ends.items():
        end = cell.sibling(protocol)
        if end in trained:
            networks[name] = _weights(work, cell, work.trained(end))
    place = cell.sibling("")
    yield from overlap_rows(place, networks, overlaps.MASKED_PAIRS, masks)
    yield from overlap_rows(place, networks, overlaps.AGAINST_DENSE_PAIRS, kept=masks)


def _weights(work: Work, cell: Cell, state: Weights) -> Weights:
    return {name: state[name] for name in work.prunable(cell)}


def _traces(work: Work, done: list[Cell]) -> list[dict[str, Any]]:
    """Average R_p after each epoch over the seeds, for the main p."""
    at = PERCENTAGES.index(MAIN_P)
    rows = [
        {**cell.place(), "protocol": cell.protocol, "epoch": row["epoch"]}
        | {"overlap": row["overlaps"][at]}
        for cell in done
        if cell.trained
        for row in work.trace(cell)
        if row["overlaps"][at] is not None
    ]
    return _over_seeds(rows, "overlap")


def _over_seeds(rows: list[dict[str, Any]], value: str) -> list[dict[str, Any]]:
    """Average rows that differ in nothing but the seed."""
    groups: dict[tuple[tuple[str, Any], ...], list[float]] = {}
    for row in rows:
        key = tuple((k, v) for k, v in row.items() if k not in ("seed", value))
        groups.setdefault(key, []).append(row[value])
    return [{**dict(key), value: statistics.fmean(values)} for key, values in groups.items()]
