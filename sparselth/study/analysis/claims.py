"""The paper's claims, each beside what a study measured.

"small" and "large" are the lowest and the highest learning rate of the study; of a single one, the
claims are judged of that of the paper's two which it is nearer to. Where a claim is about many
masks, each seed counts by its mean over them, and the interval is over seeds. Masks of controls and
random ones take no part.

Reference: Liu et al. 2021, sections 3 to 5, appendices F and G.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..plan.names import METHODS
from ..plan.percentages import MAIN_P
from .intervals import MISSING, Difference, all_of, mean_of, paired
from .overlaps import AGAINST_THETA_0, AGAINST_THETA_T, DENSE_PAIR
from .results import Results, dense_of, over_masks

# Ours, for words of the paper: an overlap this close to p is "about chance", and one this far above
# is "much". Its table 1 has 0.001 to 0.004 for the one and 0.28 to 0.45 for the other.
_ABOUT_CHANCE, _FAR_ABOVE = 0.02, 0.2

# Halfway between the paper's 0.01 and 0.1, as factors go.
_LARGE = 0.01 * 10**0.5


@dataclass(frozen=True)
class Claim:
    """One of the paper's statements about a setting, and how it fell.

    letter: of the statement; one may have several parts.  verdict: one of `intervals`.
    measured: numbers, in words.
    """

    letter: str
    statement: str
    verdict: str
    measured: str


def claims(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge claims (a) to (g) for every network and data set of a summary."""
    results = Results(summary)
    rows = []
    for setting in results.settings():
        for claim in _all(results, setting):
            rows.append({**setting, **vars(claim)})
    return rows


def _all(results: Results, setting: dict[str, Any]) -> Iterator[Claim]:
    # Controls are there to be worse, and random masks are one.
    methods = [m for m in results.masks() if m["generator"] in METHODS]
    masks = [m for m in methods if _is_setting(m, setting)]
    small, large = results.rates[0], results.rates[-1]
    if small != large:
        yield _correlation(results, setting)
        yield _training(results, setting)
    if small != large or large < _LARGE:
        yield _ticket_wins(results, masks)
    if small == large and large < _LARGE:
        return  # the others are about a rate that trains well
    yield _ticket_draws(results, masks)
    yield _finetuning_wins(results, masks)
    yield from _generators(results, masks)
    yield from _rewinding(results, masks)
    yield from _table_1(results, masks)


def _is_setting(mask: dict[str, Any], setting: dict[str, Any]) -> bool:
    return all(mask[name] == value for name, value in setting.items())


def _correlation(results: Results, setting: dict[str, Any]) -> Claim:
    small, large = results.rates[0], results.rates[-1]
    by_rate = {
        rate: results.overlaps(dense_of(setting), DENSE_PAIR, MAIN_P, rate)
        for rate in (small, large)
    }
    difference = paired(by_rate[small], by_rate[large], results.thresholds.confidence)
    words = ", ".join(
        f"{_mean(overlaps):.3f} at {rate:g}" for rate, overlaps in by_rate.items() if overlaps
    )
    return Claim(
        "a",
        f"R_{MAIN_P:g} of initial and trained weights is further above {MAIN_P:g} at the small "
        "learning rate than at the large one",
        MISSING if difference is None else difference.above(0.0),
        "" if difference is None else f"R_{MAIN_P:g}: {words}; difference {difference.text(3)}",
    )


def _training(results: Results, setting: dict[str, Any]) -> Claim:
    small, large = results.rates[0], results.rates[-1]
    difference = results.difference(dense_of(setting), ("dense", large), ("dense", small))
    return Claim(
        "b",
        f"dense training is better at {large:g} than at {small:g} (on CIFAR by 2 to 4 points)",
        _above(difference, 0.0),
        _points(difference),
    )


def _ticket_wins(results: Results, masks: list[dict[str, Any]]) -> Claim:
    rate, gap = results.rates[0], results.thresholds.gap
    difference = results.pooled(masks, ("ticket", rate), ("reinit", rate))
    return Claim(
        "c",
        f"at {rate:g} the ticket is above the re-initialization by more than {gap:g} points",
        _above(difference, gap),
        _points(difference, _tally(results, masks, ("ticket", "reinit"), rate, gap)),
    )


def _ticket_draws(results: Results, masks: list[dict[str, Any]]) -> Claim:
    rate, gap = results.rates[-1], results.thresholds.gap
    difference = results.pooled(masks, ("ticket", rate), ("reinit", rate))
    return Claim(
        "c",
        f"at {rate:g} ticket and re-initialization differ by no more than {gap:g} points",
        MISSING if difference is None else difference.within(gap),
        _points(difference, _tally(results, masks, ("ticket", "reinit"), rate, gap)),
    )


def _finetuning_wins(results: Results, masks: list[dict[str, Any]]) -> Claim:
    rate = results.rates[-1]
    pair = ("finetune", rate), ("ticket", rate)
    each = [results.difference(mask, *pair) for mask in masks]
    pooled = results.pooled(masks, *pair)
    return Claim(
        "d",
        f"at {rate:g} pruning & fine-tuning is above the ticket for every mask",
        all_of(_above(difference, 0.0) for difference in each),
        _points(
            pooled, " over all masks" + _tally(results, masks, ("finetune", "ticket"), rate, 0.0)
        ),
    )


def _generators(results: Results, masks: list[dict[str, Any]]) -> Iterator[Claim]:
    rate = results.rates[-1]
    for better, worse in (("admm", "imp"), ("imp", "magnitude"), ("admm", "magnitude")):
        first = [m for m in masks if m["generator"] == better]
        second = [{**m, "generator": worse} for m in first]
        for protocol in ("finetune", "ticket"):
            difference = results.pooled(first, (protocol, rate), (protocol, rate), second)
            if difference is None:
                continue
            yield Claim(
                "e",
                f"at {rate:g}, {protocol} on {better} masks is at least as good as on {worse} ones",
                difference.at_least(0.0),
                _points(difference, " over all sparsities"),
            )


def _rewinding(results: Results, masks: list[dict[str, Any]]) -> Iterator[Claim]:
    rate = results.rates[-1]
    words = {"finetune": "pruning & fine-tuning", "rewind": "rewinding", "ticket": "the ticket"}
    for better, worse in (("finetune", "rewind"), ("rewind", "ticket")):
        difference = results.pooled(masks, (better, rate), (worse, rate))
        yield Claim(
            "f",
            f"at {rate:g} {words[better]} is above {words[worse]}",
            _above(difference, 0.0),
            _points(
                difference, " over all masks" + _tally(results, masks, (better, worse), rate, 0.0)
            ),
        )


def _table_1(results: Results, masks: list[dict[str, Any]]) -> Iterator[Claim]:
    """Judge the overlap of the fine-tuned network with both dense ones."""
    rate = results.rates[-1]
    for pair, name in ((AGAINST_THETA_0, "initial"), (AGAINST_THETA_T, "trained")):
        by_mask = [results.overlaps(mask, pair, MAIN_P, rate) for mask in masks]
        overlaps = over_masks(by_mask)
        excess = mean_of([value - MAIN_P for value in overlaps], results.thresholds.confidence)
        near = name == "initial"
        verdict = MISSING
        if excess is not None:
            verdict = excess.within(_ABOUT_CHANCE) if near else excess.above(_FAR_ABOVE)
        wanted = f"within {_ABOUT_CHANCE:g} of" if near else f"more than {_FAR_ABOVE:g} above"
        yield Claim(
            "g",
            f"at {rate:g}, R_{MAIN_P:g} of the fine-tuned and the dense {name} network is "
            f"{wanted} chance",
            verdict,
            "" if excess is None else f"R_{MAIN_P:g} - {MAIN_P:g} = {excess.text(3)}",
        )


def _tally(
    results: Results,
    masks: list[dict[str, Any]],
    pair: tuple[str, str],
    rate: float,
    threshold: float,
) -> str:
    """Say of how many masks the difference is clear by itself."""
    differences = [results.difference(mask, (pair[0], rate), (pair[1], rate)) for mask in masks]
    bounded = [d for d in differences if d is not None and d.has_interval]
    if len(bounded) < 2:
        return ""
    above = sum(d.low > threshold for d in bounded)
    below = sum(d.high < -threshold for d in bounded)
    return (
        f"; of {len(bounded)} masks {above} clearly above {threshold:g}, {below} clearly below "
        f"{0.0 - threshold:g}"
    )


def _above(difference: Difference | None, threshold: float) -> str:
    return MISSING if difference is None else difference.above(threshold)


def _points(difference: Difference | None, of: str = "") -> str:
    """Write a difference of accuracies, and what it is of."""
    return "" if difference is None else f"{difference.text()} points{of}"


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)
