"""The protocols: where the masked network starts, and for the few that are not compared on equal
terms, how its training differs. Whatever else follows is the same for all.

Reference: Liu et al. 2021, section 3 and appendix G; Renda et al. 2020, arXiv:2003.02389 (rewinding
and small-rate fine-tuning); Liu et al. 2019, arXiv:1810.05270 (training from scratch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import SparselthError
from ...training import Recipe


@dataclass(frozen=True)
class Terms:
    """What a protocol of another length may look at.

    rewind_epoch: k.  saving: how many times fewer multiplications the masked network takes than
    the dense one.
    """

    rewind_epoch: int
    saving: float


@dataclass(frozen=True)
class Protocol:
    """A way to train on a mask.

    label: for tables.  start: the weights it starts from, a name of `STARTS`.  recipe: turns the
    recipe that all share into its own; None where it is that one.  differs: in what, for a reader
    of the report; such a protocol takes no part in verdicts.  masked: whether it has a mask.
    """

    label: str
    start: str
    recipe: Callable[[Recipe, Terms], Recipe] | None = None
    differs: str = ""
    masked: bool = True


STARTS = {
    "theta_0": "the initialization that was pre-trained",
    "theta_0_prime": "another draw of every layer, pruned or not",
    "theta_0_shuffled": "theta_0, its remaining weights permuted within each layer",
    "theta_k": "the pre-trained network after epoch k",
    "theta_T": "the pre-trained network, with its batch norm statistics",
    "theta_scratch": "a third draw of every layer",
    "small": "a draw of the narrower network",
}


def _last_epochs(recipe: Recipe, terms: Terms) -> Recipe:
    """Take the schedule from epoch k on."""
    return recipe.after(terms.rewind_epoch)


def _smallest_rate(recipe: Recipe, terms: Terms) -> Recipe:
    """Stay at the rate that pre-training ended with."""
    return dataclasses.replace(
        recipe, learning_rate=recipe.learning_rate_at(recipe.epochs - 1), milestones=()
    )


def _same_computation(recipe: Recipe, terms: Terms) -> Recipe:
    """Train for as many multiplications as the dense network had, at most twice the epochs."""
    return dataclasses.replace(recipe, epochs=round(recipe.epochs * min(2.0, terms.saving)))


PROTOCOLS: dict[str, Protocol] = {
    "ticket": Protocol("ticket", "theta_0"),
    "reinit": Protocol("re-init", "theta_0_prime"),
    "shuffle": Protocol("shuffled init", "theta_0_shuffled"),
    "finetune": Protocol("fine-tune", "theta_T"),
    "rewind": Protocol("rewind", "theta_k"),
    "lr-rewind": Protocol(
        "rate rewind", "theta_T", _last_epochs, "trains the epochs after k of the schedule alone"
    ),
    "small-lr": Protocol(
        "small rate", "theta_T", _smallest_rate, "stays at the last learning rate of the schedule"
    ),
    "small-dense": Protocol("small dense", "small", masked=False),
    "scratch-e": Protocol("scratch-E", "theta_scratch"),
    "scratch-b": Protocol(
        "scratch-B",
        "theta_scratch",
        _same_computation,
        "trains for the multiplications of the dense network, at most twice the epochs",
    ),
}

LABELS = {"dense": "dense"} | {name: protocol.label for name, protocol in PROTOCOLS.items()}

REWINDING = ("rewind", "lr-rewind")
"""The protocols that look at `rewind_epoch`."""


def compared(protocols: tuple[str, ...] | list[str]) -> list[str]:
    """Return those trained on equal terms, which verdicts are about."""
    return [name for name in protocols if not PROTOCOLS[name].differs]


def check_same_terms(name: str, recipe: Recipe, shared: Recipe) -> None:
    """Refuse a recipe of other epochs or another schedule than the one that all share.

    Raises `SparselthError`, unless the protocol is one that differs by what it is.
    """
    if PROTOCOLS[name].differs or _schedule(recipe) == _schedule(shared):
        return
    raise SparselthError(
        f"{name} would train for {_described(recipe)}, while the others train for "
        f"{_described(shared)}; protocols are compared after the same epochs on the same schedule, "
        "so change that of the whole study, or leave it"
    )


def _schedule(recipe: Recipe) -> list[float]:
    return [recipe.learning_rate_at(epoch) for epoch in range(recipe.epochs)]


def _described(recipe: Recipe) -> str:
    rates = list(dict.fromkeys(f"{rate:g}" for rate in _schedule(recipe)))
    return f"{recipe.epochs} epochs at learning rates {', '.join(rates)}"
