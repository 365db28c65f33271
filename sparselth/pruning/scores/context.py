"""What a score is given, what it may need, and what is made of what it returns.

A score is a function (weights, context) -> scores, both parameter name -> tensor. Of each score the
magnitude counts, and the largest stay; of a group, the sum of squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...checks import check_callable, kind
from ...errors import SparselthError, unknown_name

Loss = Callable[[Any, Any], Tensor]
Batch = tuple[Any, Any]


@dataclass(frozen=True)
class ScoreContext:
    """What a score may look at besides the weights.

    model: whose weights are ranked; these are not to be written to. Its modes and buffers, and
    torch's random numbers, are put back after a score that declares what it `needs`.
    data: batches (x, y) as the model and the loss take them, on the model's device.  loss: called
    as loss(model(x), y), a scalar, the mean over the batch.  Both None where `find_masks` got none.
    masks: what is left to choose among, parameter name -> bool mask; empty where all is.
    """

    model: nn.Module
    data: Iterable[Batch] | None = None
    loss: Loss | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)


Score = Callable[[Mapping[str, Tensor], ScoreContext], Mapping[str, Tensor]]
S = TypeVar("S", bound=Score)


def needs(*names: str, signed: bool = False, steps: int = 1) -> Callable[[S], S]:
    """Declare what a score cannot do without, and how it is used.

    names: of the context, "data" and "loss"; `find_masks` refuses to begin without them.
    signed: the largest values stay, not the largest magnitudes. Single weights only.
    steps: in how many steps it prunes where `find_masks` is not told.
    """

    def declare(score: S) -> S:
        score.needs, score.signed, score.steps = names, signed, steps  # type: ignore[attr-defined]
        return score

    return declare


def needs_of(score: Score) -> tuple[str, ...]:
    """Return what a score declared to need of the context."""
    return getattr(score, "needs", ())


def is_signed(score: Score) -> bool:
    """Say whether the largest values of a score stay, and not the largest magnitudes."""
    return getattr(score, "signed", False)


def steps_of(score: Score) -> int:
    """Return in how many steps a score prunes where nobody says so."""
    return getattr(score, "steps", 1)


def check_needs(name: str, score: Score, context: ScoreContext) -> None:
    """Require what a score declared. name: how errors call it.

    Raises SparselthError for what is missing, and for data and a loss that are none.
    """
    missing = [need for need in needs_of(score) if getattr(context, need) is None]
    if missing:
        raise SparselthError(
            f"the score {name!r} needs {' and '.join(missing)}; pass data=[(x, y), ...], batches "
            "as the model takes them, and loss=torch.nn.functional.cross_entropy, say"
        )
    if context.loss is not None:
        check_callable("loss", context.loss, "a function of (model(x), y)")
    if context.data is not None and (
        isinstance(context.data, (str, bytes, Tensor, Mapping))
        or not isinstance(context.data, Iterable)
    ):
        raise SparselthError(
            f"data must be batches, an iterable of (x, y), got {kind(context.data)}; of one batch, "
            "[(x, y)]"
        )


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


def name_of(score: Score) -> str:
    """Return what errors call a score."""
    return getattr(score, "__name__", kind(score))


def ranked(score: Score, weights: Mapping[str, Tensor], context: ScoreContext) -> list[Tensor]:
    """Return the scores of weights in their order, one of each shape, detached.

    Gradients are on within a score: one that needs them differentiates the model. It gets copies of
    the weights, which it may write to.

    Raises SparselthError for what is not a score of each weight, and for NaN and Inf in one.
    """
    # What draws random numbers of its own moves the generators on, as everywhere in torch.
    kept = left_as_it_was(context.model) if needs_of(score) else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), kept:
        scores = score({name: weight.clone() for name, weight in weights.items()}, context)
    what = f"the score {name_of(score)!r}"
    if not isinstance(scores, Mapping):
        raise SparselthError(
            f"{what} must return a mapping of parameter names to tensors, got {kind(scores)}"
        )
    if scores.keys() != weights.keys():
        names = sorted(map(str, scores.keys() ^ weights.keys()))
        raise SparselthError(f"{what} and the weights it was given differ in these names: {names}")
    for name, weight in weights.items():
        _check(what, name, scores[name], weight)
    in_order = [scores[name].detach() for name in weights]
    if is_signed(score):
        return _ranks(in_order)
    # Whole numbers are ranked as they are; double precision holds those up to 2^53.
    return [score if score.is_floating_point() else score.double() for score in in_order]


def _ranks(scores: list[Tensor]) -> list[Tensor]:
    """Return 1, 2, ... in the place of the lowest value of all, the next, ...; equal ones alike."""
    flat = torch.cat([score.flatten().double() for score in scores])
    ranks = flat.unique(return_inverse=True)[1].double() + 1
    parts = ranks.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


class WithValues(nn.Module):
    """A model that computes with other values for some of its parameters and buffers.

    values: returns name -> tensor, differentiated through where they require it; called in every
    forward, so that each has a graph of its own.
    """

    def __init__(self, model: nn.Module, values: Callable[[], dict[str, Tensor]]) -> None:
        super().__init__()
        self._run = lambda *args: functional_call(model, values(), args)

    def forward(self, *args: Any) -> Any:
        return self._run(*args)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put a model's modes and buffers, and torch's random numbers, back at the end, bit for bit."""
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    gpus = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(gpus)):
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            with torch.no_grad():
                for buffer, before in buffers.items():
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


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
