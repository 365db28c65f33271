"""Sanity checks: what of a mask is worth more than how many weights it leaves in each layer.

Reference: Frankle et al. 2021, arXiv:2009.08576, sections 5 and 6; Su et al. 2020,
arXiv:2009.11094.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..plan.names import METHODS
from .intervals import Difference
from .results import Results, at_rate
from .verdicts import described

# What takes a part of a mask away, and which part. "re-init" keeps the mask and takes the weights.
CHECKS = {
    "shuffled": "which weights of a layer",
    "inverted": "the order of the score",
    "re-init": "the initial weights",
    "random": "all but the sparsity",
}


def sanity(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """List the ticket on each mask minus what is left of it under each check the study has.

    In points, paired by seed, with the interval. needed: whether what the check takes away is worth
    more than the threshold for a gap.
    """
    return list(_rows(Results(summary)))


def _rows(results: Results) -> Iterator[dict[str, Any]]:
    for mask in results.masks():
        if mask["generator"] not in METHODS:
            continue
        for rate in results.rates:
            for check, takes in CHECKS.items():
                difference = _difference(results, mask, rate, check)
                if difference is not None:
                    yield {
                        **at_rate(mask, rate),
                        "check": check,
                        "takes": takes,
                        **described(difference),
                        "needed": difference.above(results.thresholds.gap),
                    }


def _difference(
    results: Results, mask: dict[str, Any], rate: float, check: str
) -> Difference | None:
    ticket = ("ticket", rate)
    if check == "re-init":
        # Only where masks are checked at all: without, it is among the differences.
        checked = any(_other(results, mask, c) is not None for c in ("shuffled", "inverted"))
        return results.difference(mask, ticket, ("reinit", rate)) if checked else None
    other = _other(results, mask, check)
    return None if other is None else results.pooled([mask], ticket, ticket, [other])


def _other(results: Results, mask: dict[str, Any], check: str) -> dict[str, Any] | None:
    """Return the mask of a control; None where the study has none."""
    name = "random" if check == "random" else f"{mask['generator']}-{check}"
    return {**mask, "generator": name} if name in results.config["generators"] else None
