"""The numbers by which results are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import SparselthError

_SIMILAR_ON = {"cifar100": 1.0, "tiny-imagenet": 1.0, "imagefolder": 1.5}


@dataclass(frozen=True)
class Thresholds:
    """When accuracies count as similar or as clearly different, in points.

    similar: the largest drop below dense that still is "similar".  similar_on: the same for single
    data sets; those for which the follow-up paper names another are among them unless they are
    given.  gap: above which a difference is clear.
    sparsity: from which on pruning is not trivial.  settled: by how much the dense network's test
    accuracy may still rise over the last fifth of its epochs, for training to count as sufficient;
    ours, as the papers name no measure.  confidence: of the intervals; 0.95 leaves one difference
    in twenty outside by chance. sparsity and confidence are fractions.

    Raises SparselthError for numbers out of range.

    Reference: Ma et al. 2021, "Sanity Checks for Lottery Tickets", arXiv:2107.00166, section 3.
    """

    similar: float = 0.5
    similar_on: Mapping[str, float] = field(default_factory=lambda: dict(_SIMILAR_ON))
    gap: float = 0.5
    sparsity: float = 0.6
    settled: float = 0.5
    confidence: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "similar_on", {**_SIMILAR_ON, **self.similar_on})
        numbers = (self.similar, self.gap, self.sparsity, self.settled, *self.similar_on.values())
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise SparselthError(
                f"a threshold is a number of points, or a share, of at least 0; got {self}"
            )
        if not self.sparsity < 1:
            raise SparselthError(
                f"the threshold sparsity is {self.sparsity}; it is a share of weights, below 1"
            )
        if not 0 < self.confidence < 1:
            raise SparselthError(
                f"confidence is {self.confidence}; it must be above 0 and below 1, such as 0.95"
            )

    def similar_for(self, data: str) -> float:
        """Return the largest drop, in points, that still is similar on the data set `data`."""
        return self.similar_on.get(data, self.similar)
