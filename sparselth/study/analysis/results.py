"""Look up the accuracies and overlaps of a summary by what they are of."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from ...settings import changed
from ..plan.protocols import PROTOCOLS
from ..plan.thresholds import Thresholds
from .intervals import MISSING, NO, YES, Difference, mean_of, opposite, paired

# Of the cells, what names a mask; the learning rate comes beside it.
MASK = ("model", "data", "generator", "sparsity")

BySeed = dict[int, float]


class Results:
    """A summary, asked for its numbers by seed."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self.config = summary["config"]
        self.rates: list[float] = sorted(self.config["learning_rates"])
        self.thresholds = changed(Thresholds(), self.config["thresholds"], "thresholds")
        self._accuracies: dict[tuple[Any, ...], BySeed] = {}
        self._late_gains: dict[tuple[Any, ...], BySeed] = {}
        for cell in summary["cells"]:
            key = (*(cell[name] for name in MASK), cell["protocol"], cell["learning_rate"])
            self._accuracies.setdefault(key, {})[cell["seed"]] = cell["test_accuracy"]
            if cell["late_gain"] is not None:
                self._late_gains.setdefault(key, {})[cell["seed"]] = cell["late_gain"]
        self._overlaps: dict[tuple[Any, ...], BySeed] = {}
        for row in summary["overlaps"]:
            key = (*(row[name] for name in MASK), row["pair"], row["p"], row["learning_rate"])
            self._overlaps.setdefault(key, {})[row["seed"]] = row["overlap"]

    def settings(self) -> list[dict[str, Any]]:
        """List the networks and data sets."""
        return [
            {"model": model, "data": data}
            for model in self.config["models"]
            for data in self.config["data"]
        ]

    def masks(self) -> list[dict[str, Any]]:
        """List what names a mask, whatever the learning rate and the seed."""
        return [
            setting | {"generator": generator, "sparsity": sparsity}
            for setting in self.settings()
            for generator in self.config["generators"]
            for sparsity in self.config["sparsities"]
        ]

    def accuracies(self, mask: dict[str, Any], protocol: str, rate: float | None) -> BySeed:
        """Return the accuracies of a protocol on a mask by seed, empty where there are none."""
        if protocol == "dense":
            mask = {**mask, "generator": "", "sparsity": 0.0}
        elif not PROTOCOLS[protocol].masked:
            mask = {**mask, "generator": ""}
        return self._accuracies.get((*(mask[name] for name in MASK), protocol, rate), {})

    def difference(
        self,
        mask: dict[str, Any],
        first: tuple[str, float | None],
        second: tuple[str, float | None],
    ) -> Difference | None:
        """Compare two (protocol, learning rate) on a mask; None where one is missing."""
        return paired(
            self.accuracies(mask, *first),
            self.accuracies(mask, *second),
            self.thresholds.confidence,
        )

    def pooled(
        self,
        masks: Iterable[dict[str, Any]],
        first: tuple[str, float | None],
        second: tuple[str, float | None],
        other: Iterable[dict[str, Any]] | None = None,
    ) -> Difference | None:
        """Compare as `difference` does, each seed by its mean over several masks.

        other: the masks of the second, where they are not those of the first.
        """
        masks = list(masks)
        pairs = zip(masks, masks if other is None else other, strict=True)
        by_mask = []
        for mask, mask_2 in pairs:
            one, two = self.accuracies(mask, *first), self.accuracies(mask_2, *second)
            by_mask.append({seed: one[seed] - two[seed] for seed in one if seed in two})
        return mean_of(over_masks(by_mask), self.thresholds.confidence)

    def overlaps(self, mask: dict[str, Any], pair: str, p: float, rate: float) -> BySeed:
        """Return R_p of a pair by seed; of the dense pair for a mask without generator."""
        return self._overlaps.get((*(mask[name] for name in MASK), pair, p, rate), {})

    def best_rate(self, mask: dict[str, Any], protocol: str) -> float | None:
        """Return the learning rate of the highest mean accuracy; None without any."""
        means = {
            rate: statistics.fmean(accuracies.values())
            for rate in self.rates
            if (accuracies := self.accuracies(mask, protocol, rate))
        }
        return max(means, key=means.__getitem__) if means else None

    def nontrivial(self, mask: dict[str, Any]) -> str:
        """Say whether a sparsity is one that pruning does not reach for free."""
        return YES if mask["sparsity"] >= self.thresholds.sparsity else NO

    def settled(self, mask: dict[str, Any]) -> str:
        """Say whether dense training at its best rate had stopped improving."""
        best = self.best_rate(mask, "dense")
        key = (mask["model"], mask["data"], "", 0.0, "dense", best)
        gains = mean_of(list(self._late_gains.get(key, {}).values()), self.thresholds.confidence)
        return MISSING if gains is None else opposite(gains.above(self.thresholds.settled))


def over_masks(by_mask: Iterable[BySeed]) -> list[float]:
    """Average values over masks: one for each seed that every mask with any has."""
    measured = [by_seed for by_seed in by_mask if by_seed]
    # A seed of which one mask failed would be a mean over others than the rest.
    seeds = [seed for seed in (measured[0] if measured else ()) if all(seed in m for m in measured)]
    return [statistics.fmean(by_seed[seed] for by_seed in measured) for seed in seeds]


def dense_of(setting: dict[str, Any]) -> dict[str, Any]:
    """Return what names the dense network of a setting."""
    return setting | {"generator": "", "sparsity": 0.0}


def at_rate(mask: dict[str, Any], rate: float) -> dict[str, Any]:
    return {**mask, "learning_rate": rate}
