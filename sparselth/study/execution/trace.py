"""R_p while a network trains, against the weights it started from: one watches it fall."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...files import write_json
from ...nn import masks_of
from ...pruning import weight_overlap
from ...training import Callback, CheckpointError, History, Recipe
from ..plan.percentages import PERCENTAGES, selecting


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Read what an `OverlapTrace` wrote; nothing where it has not begun."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.is_file() else []
    except ValueError:
        raise CheckpointError(
            f"{path} is damaged; delete the folder {path.parent} to train this part again"
        ) from None
    return rows


class OverlapTrace(Callback):
    """Write R_p after every epoch, a value for each p of `PERCENTAGES`, to a JSON file.

    None where so few weights are left that p selects none of them.
    start: the weights compared with, by parameter name. Where the model has masks, p is a share of
    the remaining weights.
    """

    def __init__(self, path: Path, start: Mapping[str, Tensor]) -> None:
        self.path = path
        self.start = start
        self.rows: list[dict[str, Any]] = []

    def train_begin(self, model: nn.Module, recipe: Recipe, history: History) -> None:
        self.rows = [row for row in read_trace(self.path) if row["epoch"] <= len(history)]
        # A kill may have come between an epoch's checkpoint and what follows it.
        if len(history) and (not self.rows or self.rows[-1]["epoch"] < len(history)):
            self.epoch_end(model, history)

    def epoch_end(self, model: nn.Module, history: History) -> None:
        weights = {name: model.get_parameter(name) for name in self.start}
        masks = masks_of(model) or None
        shares = selecting(self.start, masks)
        by_p = dict(zip(shares, weight_overlap(self.start, weights, shares, masks), strict=True))
        overlaps = [by_p.get(p) for p in PERCENTAGES]
        self.rows.append({"epoch": len(history), "overlaps": overlaps})
        write_json(self.path, self.rows)
