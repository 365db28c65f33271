"""How a score is found, checked and run, and what is made of what it returns.

Of each score the magnitude counts, and the largest stay; of a group, the sum of squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from inspect import signature

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ...checks import kind
from ...errors import SparselthError, unknown_name
from ..leaving import left_as_it_was
from ..processes import from_first_process, mean_over_processes
from .batches import check_batches, check_loss
from .context import Score, ScoreContext, declared

# What a score may need, and how the call gives it.
_HINTS = {
    "data": "data=[(x, y), ...], batches as the model takes them",
    "loss": "loss=torch.nn.functional.cross_entropy, say",
    "initial": "initial=, the state dict before training",
}


def check_needs(name: str, score: Score, context: ScoreContext) -> None:
    """Require what a score declared. name: how errors call it.

    Raises SparselthError for what is missing, and for data and a loss that are none.
    """
    names = declared(score).names
    missing = [need for need in names if need in _HINTS and getattr(context, need) is None]
    if missing:
        raise SparselthError(
            f"the score {name!r} needs {' and '.join(missing)}; pass "
            + ", and ".join(_HINTS[need] for need in missing)
        )
    if "norms" in names and not any(isinstance(m, _BatchNorm) for m in context.model.modules()):
        raise SparselthError(
            f"the score {name!r} ranks filters by the scales of batch norms, and the model has none"
        )
    if context.loss is not None:
        check_loss(context.loss)
    if context.data is not None:
        check_batches(context.data)
    if isinstance(context.data, Sequence) and not context.data and "data" in names:
        raise SparselthError(f"data holds no batch; the score {name!r} wants at least one")


def find_score(score: str | Score, scores: Mapping[str, Score]) -> Score:
    """Return a score by its name; one that is a function already as it is.

    scores: those that have names.

    Raises SparselthError for an unknown name, listing the known ones, and for what cannot be called
    with (weights, context).
    """
    if isinstance(score, str):
        if score not in scores:
            raise unknown_name("score", score, scores)
        return scores[score]
    if not _takes_two(score):
        hint = "; a sparsity is given as sparsity=..." if isinstance(score, float) else ""
        raise SparselthError(
            f"score must be one of {', '.join(sorted(scores))} or a function of (weights, "
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


def ranked(
    name: str, score: Score, weights: Mapping[str, Tensor], context: ScoreContext
) -> list[Tensor]:
    """Return the scores of weights in their order, detached: one of each shape, or of its units.

    Gradients are on within a score: one that needs them differentiates the model. It gets copies of
    the weights, zero where they are pruned already, which it may write to.
    The same in every process of a group: the mean of those of the processes where they see data,
    else the first one's.
    Scores of units, and signed ones, are returned as ranks, 1 for the lowest of all.
    name: what errors call the score.

    Raises SparselthError for what is not a score of each weight, and for NaN and Inf in one.
    """
    says = declared(score)
    # What draws random numbers of its own moves the generators on, as everywhere in torch.
    kept = left_as_it_was(context.model) if says.names else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), kept:
        copies = {n: _left(weight, context.masks.get(n)) for n, weight in weights.items()}
        scores = score(copies, context)
    what = f"the score {name!r}"
    if not isinstance(scores, Mapping):
        raise SparselthError(
            f"{what} must return a mapping of parameter names to tensors, got {kind(scores)}"
        )
    if scores.keys() != weights.keys():
        names = sorted(map(str, scores.keys() ^ weights.keys()))
        raise SparselthError(f"{what} and the weights it was given differ in these names: {names}")
    for weight_name, weight in weights.items():
        shape = unit_shape(weight, says.unit, weight_name in context.transposed)
        _check(what, weight_name, scores[weight_name], weight, shape)
    in_order = [scores[name].detach() for name in weights]
    # Whole numbers are ranked as they are; double precision holds those up to 2^53.
    in_order = [score if score.is_floating_point() else score.double() for score in in_order]
    same = mean_over_processes if "data" in says.names else from_first_process
    in_order = same(in_order)
    if says.unit != "weight" or says.signed:
        return _ranks(in_order if says.signed else [score.abs() for score in in_order])
    return in_order


def _left(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return a copy of a weight without what is pruned already."""
    return weight.clone() if mask is None else torch.where(mask, weight, 0.0)


def unit_shape(weight: Tensor, unit: str, transposed: bool) -> tuple[int, ...]:
    """Return the shape of a weight's scores: its own, or (C_out,) or (C_in,) for units."""
    if unit == "weight":
        return tuple(weight.shape)
    return (weight.shape[unit_axis(unit) ^ transposed],)


def unit_axis(unit: str) -> int:
    """Return the axis of a weight (out, in, ...) that units are numbered along."""
    return 0 if unit == "filter" else 1


def _ranks(scores: list[Tensor]) -> list[Tensor]:
    """Return 1, 2, ... in the place of the lowest value of all, the next, ...; equal ones alike."""
    where = scores[0].device  # layers may lie on several
    flat = torch.cat([score.flatten().double().to(where) for score in scores])
    ranks = flat.unique(return_inverse=True)[1].double() + 1
    parts = ranks.split([score.numel() for score in scores])
    both = zip(parts, scores, strict=True)
    return [part.view(score.shape).to(score.device) for part, score in both]


def _check(what: str, name: str, score: object, weight: Tensor, shape: tuple[int, ...]) -> None:
    wanted = f"{what} must return a tensor of real numbers, {shape} for {name!r}"
    if not isinstance(score, Tensor):
        raise SparselthError(f"{wanted}; got {kind(score)}")
    if score.is_complex() or score.layout is not torch.strided or score.shape != shape:
        raise SparselthError(
            f"{wanted}; got {score.dtype} of shape {tuple(score.shape)} and layout {score.layout}"
        )
    if score.device != weight.device:
        raise SparselthError(f"{wanted}, on {weight.device}; got one on {score.device}")
    if not bool(torch.isfinite(score).all()):
        raise SparselthError(f"{what} of {name!r} holds NaN or Inf and cannot be ranked")
