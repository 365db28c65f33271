"""Differences over seeds with their confidence intervals, and what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...errors import SparselthError

try:
    from scipy.special import stdtrit  # scipy.stats takes seconds to import
except ImportError as error:
    raise SparselthError(
        "a study computes confidence intervals with scipy, which is not installed; run: "
        "pip install 'sparselth[study]'"
    ) from error

YES, NO = "yes", "no"
UNCLEAR = "not enough seeds to say"
MISSING = "not measured"


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences over `seeds` seeds, and Student's confidence interval.

    low, high: NaN for a single seed, or two that agree.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    def above(self, threshold: float) -> str:
        """Say whether the true mean is above a threshold."""
        if self.low > threshold:
            return YES
        return NO if self.high <= threshold else UNCLEAR

    def at_least(self, threshold: float) -> str:
        """Say whether the true mean reaches a threshold."""
        if self.low >= threshold:
            return YES
        return NO if self.high < threshold else UNCLEAR

    def within(self, threshold: float) -> str:
        """Say whether the true mean is at most a threshold away from zero."""
        return all_of([self.at_least(-threshold), opposite(self.above(threshold))])

    def text(self, digits: int = 2) -> str:
        """Describe it: the mean, and in brackets the interval."""
        mean, low, high = (f"{value:+.{digits}f}" for value in (self.mean, self.low, self.high))
        if not self.has_interval:
            return f"{mean} ({no_interval(self.seeds)})"
        return f"{mean} [{low}, {high}]"


def paired(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float
) -> Difference | None:
    """Compare two results by seed -> value, over the seeds that both have; None if there is none.

    Seeds are paired: what a seed decides for both, such as the pre-training, the mask, or the order
    of images, both have in common.
    """
    return mean_of([first[seed] - second[seed] for seed in first if seed in second], confidence)


def mean_of(values: list[float], confidence: float) -> Difference | None:
    """Return the mean of independent values with its interval; None where there is none."""
    if not values:
        return None
    count = len(values)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / max(count - 1, 1)
    # Accuracies come in steps of an image: two seeds may well agree, and then say nothing about how
    # far seeds are apart.
    if count == 1 or (count == 2 and variance == 0):
        return Difference(mean, math.nan, math.nan, count)
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * math.sqrt(variance / count)
    return Difference(mean, mean - half, mean + half, count)


def no_interval(seeds: int) -> str:
    """Say of how many seeds there is a mean without an interval."""
    return "one seed" if seeds == 1 else "two seeds that agree"


def opposite(verdict: str) -> str:
    return {YES: NO, NO: YES}.get(verdict, verdict)


def all_of(verdicts: Iterable[str]) -> str:
    """Join verdicts by "and": one no decides, and else what is missing or unclear."""
    return _first(list(verdicts), (NO, MISSING, UNCLEAR, YES))


def any_of(verdicts: Iterable[str]) -> str:
    """Join verdicts by "or": one yes decides, and else what is missing or unclear."""
    return _first(list(verdicts), (YES, MISSING, UNCLEAR, NO))


def _first(verdicts: list[str], order: tuple[str, ...]) -> str:
    return next((verdict for verdict in order if verdict in verdicts), MISSING)
