"""The protocols: from which weights the masked network starts. What follows is the same for all.

Reference: Liu et al., 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class StartingPoints:
    """The state dicts a protocol can start from, all of the dense network.

    `theta_0`: the initialisation that was pre-trained; `theta_0_prime`: another draw of it, of
    every layer, pruned or not; `theta_T`: the pre-trained network with its batch norm statistics.
    """

    theta_0: Weights
    theta_0_prime: Weights
    theta_T: Weights


def ticket(points: StartingPoints) -> Weights:
    """Start the "winning ticket" from theta_0 * m."""
    return points.theta_0


def reinit(points: StartingPoints) -> Weights:
    """Start the random re-initialisation from theta_0' * m."""
    return points.theta_0_prime


def finetune(points: StartingPoints) -> Weights:
    """Start pruning & fine-tuning from theta_T * m, with the full schedule again."""
    return points.theta_T


PROTOCOLS: dict[str, Callable[[StartingPoints], Weights]] = {
    "ticket": ticket,
    "reinit": reinit,
    "finetune": finetune,
}

LABELS = {
    "dense": "dense",
    "ticket": "ticket",
    "reinit": "re-init",
    "finetune": "fine-tune",
}
