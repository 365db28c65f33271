"""What the accuracies of a study say: differences, the winning property, and kinds of tickets.

All of it is computed from the summary alone, so that anyone can check it.

Reference: Liu et al. 2021, section 3.1 (the winning property); Ma et al. 2021, "Sanity Checks for
Lottery Tickets", arXiv:2107.00166, section 3 (the five conditions and their thresholds).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .intervals import MISSING, NO, YES, Difference, all_of, any_of
from .results import Results, at_rate

# What a reader wants to know of two protocols on the same mask, first minus second.
COMPARED = (
    ("ticket", "dense"),
    ("reinit", "dense"),
    ("finetune", "dense"),
    ("rewind", "dense"),
    ("ticket", "reinit"),
    ("ticket", "shuffle"),
    ("finetune", "ticket"),
    ("finetune", "reinit"),
    ("finetune", "rewind"),
    ("rewind", "ticket"),
    ("ticket", "small-dense"),
    ("finetune", "small-dense"),
    ("scratch-e", "dense"),
)


def differences(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """List the differences of `COMPARED` that the study has, at each learning rate and mask.

    In points, with the confidence interval over seeds; empty bounds for a single seed.
    """
    results = Results(summary)
    rows = []
    for mask in results.masks():
        for rate in results.rates:
            for first, second in COMPARED:
                difference = results.difference(mask, (first, rate), (second, rate))
                if difference is not None:
                    place = at_rate(mask, rate) | {"first": first, "second": second}
                    rows.append(place | described(difference))
    return rows


def winning(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge the winning property of each mask at each learning rate.

    similar: the ticket is no worse than dense by more than the threshold.  gap: it is above the
    re-initialization by more than the threshold.  nontrivial: the sparsity is not trivial.
    """
    results = Results(summary)
    rows = []
    for mask in results.masks():
        for rate in results.rates:
            similar = _similar(results, mask, rate, rate)
            gap = results.difference(mask, ("ticket", rate), ("reinit", rate))
            parts = {
                "nontrivial": results.nontrivial(mask),
                "similar": similar,
                "gap": MISSING if gap is None else gap.above(results.thresholds.gap),
            }
            rows.append(at_rate(mask, rate) | parts | {"winning": all_of(parts.values())})
    return rows


def conditions(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge the five conditions of each mask, over all learning rates of the study.

    1: a sparsity that is not trivial, and pre-training that has settled.  2: the ticket, at its
    best rate, is clearly above the small dense network of as many parameters at its best.  3: at
    some rate it is clearly above the re-initialization at any.  4: at some rate it is similar to
    dense at that rate.  5: at some rate it is similar to dense at dense's best.
    All five are a Jackpot winning ticket, the first four a secondary prize.
    """
    results = Results(summary)
    rows = []
    for mask in results.masks():
        verdicts = dict(zip("12345", _conditions(results, mask), strict=True))
        jackpot = all_of(verdicts.values())
        secondary = all_of([verdicts[c] for c in "1234"])
        if jackpot == YES:
            prize = "Jackpot winning ticket"
        elif secondary == YES:
            prize = "secondary prize ticket"
            if verdicts["5"] != NO:
                prize = f"at least a {prize}"
        else:
            prize = "none" if secondary == NO else secondary
        rows.append({**mask, **{f"condition_{c}": v for c, v in verdicts.items()}, "prize": prize})
    return rows


def _conditions(results: Results, mask: dict[str, Any]) -> Iterator[str]:
    rates, gap = results.rates, results.thresholds.gap
    best = results.best_rate(mask, "dense")
    yield all_of([results.nontrivial(mask), results.settled(mask)])

    ticket, small = (results.best_rate(mask, name) for name in ("ticket", "small-dense"))
    yield _above(results.difference(mask, ("ticket", ticket), ("small-dense", small)), gap)

    yield any_of(
        all_of(
            _above(results.difference(mask, ("ticket", rate), ("reinit", other)), gap)
            for other in rates
        )
        for rate in rates
    )
    yield any_of(_similar(results, mask, rate, rate) for rate in rates)
    yield any_of(_similar(results, mask, rate, best) for rate in rates)


def _similar(results: Results, mask: dict[str, Any], rate: float, dense_rate: float | None) -> str:
    difference = results.difference(mask, ("ticket", rate), ("dense", dense_rate))
    if difference is None:
        return MISSING
    return difference.at_least(-results.thresholds.similar_for(mask["data"]))


def _above(difference: Difference | None, threshold: float) -> str:
    return MISSING if difference is None else difference.above(threshold)


def described(difference: Difference) -> dict[str, Any]:
    """Return a difference as a row of a table has it."""
    bounded = difference.has_interval
    return {
        "mean": difference.mean,
        "low": difference.low if bounded else None,
        "high": difference.high if bounded else None,
        "seeds": difference.seeds,
    }
