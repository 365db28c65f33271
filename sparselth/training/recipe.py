"""How to train: everything that decides the numbers besides the model, the masks and the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import SparselthError
from ..ops.choice import checked_mode


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with a step schedule, the paper's by default.

    `milestones` are fractions of `epochs` after which the learning rate is multiplied by `gamma`;
    80/150 and 120/150 are the paper's epochs 80 and 120 of 150, scaled to any length. `augment`
    turns on random crops, and mirroring where the data set allows it. `seed` decides the order of
    the images, the crops, and whatever else is drawn while training. `choice` is how sparse and
    dense kernels are chosen between: "fixed" trains to the same numbers in every run, bit for bit,
    also when stopped and resumed; "measured" is faster and rounds as the measurements fall out.

    Reference: Liu et al., 2021, appendix, training setup.
    """

    epochs: int = 150
    learning_rate: float = 0.1
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    milestones: tuple[float, ...] = (80 / 150, 120 / 150)
    gamma: float = 0.1
    augment: bool = True
    seed: int = 0
    choice: str = "fixed"

    def __post_init__(self) -> None:
        checked_mode(self.choice)
        positive = {"epochs": self.epochs, "batch_size": self.batch_size}
        for name, count in positive.items():
            if count < 1:
                raise SparselthError(f"a recipe got {name}={count}; it must be at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SparselthError(
                f"a recipe got learning_rate={self.learning_rate}; it must be above 0 and finite"
            )
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise SparselthError(
                f"a recipe got momentum={self.momentum} and weight_decay={self.weight_decay}; "
                "momentum must be in [0, 1) and weight_decay at least 0"
            )
        if any(not 0 < milestone <= 1 for milestone in self.milestones):
            raise SparselthError(
                f"a recipe got milestones={self.milestones}; each is a fraction of the epochs, "
                "above 0 and at most 1"
            )

    def learning_rate_at(self, epoch: int) -> float:
        """Compute the learning rate of an epoch, counted from 0."""
        passed = sum(epoch >= round(milestone * self.epochs) for milestone in self.milestones)
        return self.learning_rate * self.gamma**passed
