"""How measurements become ratios: the best of theirs over the best of ours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Where the choice falls on dense, we and dense are the same and measure this much apart.
NOISE = 0.03

Points = Sequence[tuple[float, float]]  # (sparsity, speed-up), by rising sparsity


@dataclass(frozen=True)
class Ratio:
    """How many times less (time, memory) the best of `ours` takes than the best of `theirs`.

    over: what a table calls `theirs`.
    """

    over: str
    theirs: tuple[str, ...]
    ours: tuple[str, ...] = ("sparse",)


def evaluate(values: Mapping[str, float], ratios: Sequence[Ratio]) -> dict[str, dict[str, float]]:
    """Return, by `over`, the ratio and what it was made of.

    A ratio none of whose `theirs` was measured here is left out: not every baseline exists on
    every machine and for every problem.
    """
    results: dict[str, dict[str, float]] = {}
    for ratio in ratios:
        theirs = min((values[name] for name in ratio.theirs if name in values), default=None)
        if theirs is not None:
            ours = min(values[name] for name in ratio.ours)
            results[ratio.over] = {
                "ratio": round(theirs / ours, 3),
                "ours": round(ours, 4),
                "theirs": round(theirs, 4),
            }
    return results


def row_of(values: Mapping[str, float], ratios: Sequence[Ratio], **facts: Any) -> dict[str, Any]:
    """Return what a result file holds of one benchmark; `speedup` repeats the first ratio.

    values: by candidate, in milliseconds or what `facts` names as unit.  facts: op, problem,
    sparsity, device, threads.
    """
    found = evaluate(values, ratios)
    return {
        "device": "cpu",
        "unit": "ms",
        **facts,
        "values": {name: round(value, 4) for name, value in values.items()},
        "ratios": found,
        "speedup": found[ratios[0].over]["ratio"],
    }


def position(sparsity: float) -> float:
    """Place a sparsity on the axis: each tenth of the density takes the same room."""
    return -math.log10(1 - sparsity)


def break_even(points: Points) -> float | None:
    """Return the position from which on sparse wins, between the last loss and the next point.

    None where it loses throughout, or never by more than the noise.
    """
    if min(y for _, y in points) >= 1 - NOISE:
        return None
    for (s0, y0), (s1, y1) in reversed(list(itertools.pairwise(points))):
        if y0 < 1 <= y1:
            share = math.log(1 / y0) / math.log(y1 / y0)
            return position(s0) + share * (position(s1) - position(s0))
    return None
