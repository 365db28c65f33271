"""The score axis: what ranks the weights. A registry of plain functions, or your own.

A score is a function (weights, context) -> scores, both parameter name -> tensor. Of each score the
magnitude counts, and the largest stay; of a group, the sum of squares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn

from ..checks import check_name, kind
from ..errors import SparselthError


@dataclass(frozen=True)
class ScoreContext:
    """What a score may look at besides the weights.

    model: whose weights are ranked. A score that calls it leaves it as it was.
    """

    model: nn.Module


Score = Callable[[Mapping[str, Tensor], ScoreContext], Mapping[str, Tensor]]


def magnitude(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by its absolute value (Han et al. 2015, arXiv:1506.02626)."""
    return weights  # top-k ranks by magnitude already


def random(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score each weight by an independent draw from [0, 1), whatever it holds.

    Drawn from torch's global generator of the weight's device, in model order: `torch.manual_seed`
    decides, and a GPU draws other scores than the CPU does. Groups are ranked by their sums of
    squares as with any score, so the larger ones stay where groups differ in size.

    Reference: Frankle et al. 2021, arXiv:2009.08576 (random pruning, layer-wise).
    """
    # Single precision: in 16 bits many scores would tie, and ties are not broken at random.
    return {
        name: torch.rand(w.shape, device=w.device, dtype=torch.float32)
        for name, w in weights.items()
    }


SCORES: dict[str, Score] = {
    "magnitude": magnitude,
    "random": random,
}


def find_score(score: str | Score) -> Score:
    """Return a score by its name; one that is a function already as it is.

    Raises SparselthError for an unknown name, listing the known ones, and for what cannot be called
    with (weights, context).
    """
    if isinstance(score, str):
        check_name("score", score, SCORES)
        return SCORES[score]
    if not _takes_two(score):
        hint = "; a sparsity is given as sparsity=..." if isinstance(score, float) else ""
        raise SparselthError(
            f"score must be one of {', '.join(sorted(SCORES))} or a function of (weights, "
            f"context), got {score!r}{hint}; see sparselth.pruning.ScoreContext"
        )
    return score


def _takes_two(score: object) -> bool:
    if not callable(score) or isinstance(score, type):
        return False
    try:
        signature(score).bind({}, None)
    except TypeError:
        return False
    except ValueError:  # of what is written in C nobody knows
        return True
    return True


def ranked(score: Score, weights: Mapping[str, Tensor], context: ScoreContext) -> list[Tensor]:
    """Return the scores of weights in their order, one of each shape, detached.

    Gradients are on within a score: one that needs them differentiates the model. One of the user's
    gets copies, which it may write to.

    Raises SparselthError for what is not a score of each weight, and for NaN and Inf in one.
    """
    if score in SCORES.values():
        return list(score(weights, context).values())
    with torch.inference_mode(False), torch.enable_grad():
        scores = score({name: weight.clone() for name, weight in weights.items()}, context)
    what = f"the score {getattr(score, '__name__', kind(score))!r}"
    if not isinstance(scores, Mapping):
        raise SparselthError(
            f"{what} must return a mapping of parameter names to tensors, got {kind(scores)}"
        )
    if scores.keys() != weights.keys():
        names = sorted(map(str, scores.keys() ^ weights.keys()))
        raise SparselthError(f"{what} and the weights it was given differ in these names: {names}")
    for name, weight in weights.items():
        _check(what, name, scores[name], weight)
    # Whole numbers are ranked as they are; double precision holds those up to 2^53.
    return [
        score.detach() if score.is_floating_point() else score.double()
        for score in (scores[name] for name in weights)
    ]


def _check(what: str, name: str, score: object, weight: Tensor) -> None:
    wanted = f"{what} must return a tensor of real numbers, {tuple(weight.shape)} for {name!r}"
    if not isinstance(score, Tensor):
        raise SparselthError(f"{wanted}; got {kind(score)}")
    if score.is_complex() or score.layout is not torch.strided or score.shape != weight.shape:
        raise SparselthError(
            f"{wanted}; got {score.dtype} of shape {tuple(score.shape)} and layout {score.layout}"
        )
    if score.device != weight.device:
        raise SparselthError(f"{wanted}, on {weight.device}; got one on {score.device}")
    if not bool(torch.isfinite(score).all()):
        raise SparselthError(f"{what} of {name!r} holds NaN or Inf and cannot be ranked")
