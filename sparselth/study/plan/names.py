"""The names of mask generators and of their controls, and the rounds of iterative pruning."""

from __future__ import annotations

import math

from ...errors import SparselthError, unknown_name
from ...pruning import SCORES
from ...pruning.arguments import check_allocation, pattern_of_score

SCORED = tuple(name for name in SCORES if name not in ("magnitude", "random"))
"""Generators that are a score of `find_masks`, by its name."""

TRAINED = ("early-bird", "edge-popup")
"""Generators with a training of their own, from the initialization; besides "admm"."""

AT_INIT = ("snip", "grasp", "grasp-abs", "synflow", "magnitude-init", *TRAINED)
"""Those that begin with the initialization, as their papers do; others rank the pre-trained
network."""

GENERATORS = ("magnitude", "imp", "admm", "random", *SCORED, *TRAINED)
"""What finds masks, see `execution/generators.py`."""

CONTROLS = ("shuffled", "inverted")

# Weights left that are this near to what whole rounds leave, as a share of them, are taken for it:
# a sparsity of 0.386 is three rounds of 15 %.
_ON_GRID = 0.01


METHODS = tuple(name for name in GENERATORS if name != "random")
"""Those that look for good masks; random ones are a control."""


def check_generator(base: str, allocation: str) -> None:
    """Refuse an allocation that a generator cannot have.

    Raises SparselthError naming both.
    """
    if base in SCORED:
        score = SCORES[base]
        check_allocation(score, allocation, pattern_of_score(score, None))
    elif allocation == "lamp" and base in ("admm", "early-bird"):
        raise SparselthError(
            f'the mask generator {base!r} does not go with allocation="lamp", which compares '
            'single weights by other than magnitudes; take "uniform", "global" or "erk"'
        )


def parsed(name: str) -> tuple[str, str]:
    """Split a generator's name into generator and control, "" for none.

    Raises `SparselthError` for an unknown one, or a control of random masks.
    """
    if name in GENERATORS:
        return name, ""
    base, _, control = name.rpartition("-")
    if base in TRAINED and control == "inverted":
        raise SparselthError(
            f"the mask generator {name!r} has no score to invert; {base} takes -shuffled"
        )
    if base in METHODS and control in CONTROLS:
        return base, control
    if base in GENERATORS:
        raise SparselthError(
            f"the mask generator {name!r} has no control that fits; they take "
            f"{' or '.join(f'-{c}' for c in CONTROLS)}, and random masks are a control already"
        )
    raise unknown_name("mask generator", name, GENERATORS)


def rounds_to(sparsity: float, rate: float) -> int:
    """Return how many rounds of pruning `rate` of what is left reach a sparsity.

    The last one prunes less where the sparsity lies between two rounds.
    """
    exact = math.log(1 - sparsity) / math.log(1 - rate)
    reached = round(exact)
    if reached >= 1 and abs(after_rounds(reached, rate) - sparsity) <= _ON_GRID * (1 - sparsity):
        return reached
    return max(1, math.ceil(exact))


def after_rounds(rounds: int, rate: float) -> float:
    """Return the sparsity after some rounds of pruning `rate` of what is left."""
    return 1 - (1 - rate) ** rounds
