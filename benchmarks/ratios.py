"""How measurements become ratios: the best of theirs over the best of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
    found: dict[str, dict[str, float]] = {}
    for ratio in ratios:
        theirs = min((values[name] for name in ratio.theirs if name in values), default=None)
        if theirs is not None:
            ours = min(values[name] for name in ratio.ours)
            found[ratio.over] = {
                "ratio": round(theirs / ours, 3),
                "ours": round(ours, 4),
                "theirs": round(theirs, 4),
            }
    return found
