"""Which weights stay, by the scores: what is pruned already last, then top-k."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ..errors import SparselthError
from ..ops import selection
from ..ops.patterns import Pattern
from .allocation import TOGETHER, op_allocation
from .scores.ranking import unit_axis

Counts = int | list[int] | None

# Below any number of single precision, and its square, which groups are ranked by, is not zero.
_LEAST = 1e-150


def select(
    names: list[str], scores: list[Tensor], counts: Counts, allocation: str, pattern: Pattern
) -> list[Tensor]:
    """Return the masks of what stays, a bool tensor for each score; they may differ in dtype.

    names: how errors call the tensors.  counts: how many weights or groups stay, as
    `selection.topk_mask` takes it.

    Raises SparselthError on NaN or Inf, and with "global" on scores of several devices.
    """
    if allocation in TOGETHER:
        scores = _of_one_kind(names, scores)
    masks: list[Tensor | None] = [None] * len(scores)
    for places in _alike(scores):
        selected = selection.topk_mask(
            [scores[i] for i in places],
            [counts[i] for i in places] if isinstance(counts, list) else counts,
            allocation=op_allocation(allocation),
            pattern=pattern,
            names=[names[i] for i in places],
        )
        for i, mask in zip(places, selected, strict=True):
            masks[i] = mask
    return [mask for mask in masks if mask is not None]


def last_where_pruned(score: Tensor, left: Tensor | None) -> Tensor:
    """Return scores that rank what is pruned already behind all that is left."""
    if left is None:
        return score
    return torch.where(left, score.double().abs().clamp(min=_LEAST), 0.0)


def lamp(score: Tensor) -> Tensor:
    """Return LAMP's score of a layer's weights: its square over those of all that are no smaller.

    Of equal magnitudes the one of the lowest index counts as the largest, as top-k has it. In
    float64; the largest weight of every layer scores 1, and what scores zero keeps that.

    Reference: Lee et al. 2021, arXiv:2010.07611, equation 4.
    """
    squares, order = score.double().flatten().square().sort(descending=True, stable=True)
    share = squares / squares.cumsum(0)
    found = torch.empty_like(share)
    found[order] = torch.where(squares > 0, share, 0.0)
    return found.view(score.shape).sqrt()  # top-k compares magnitudes; the root keeps small ones


def spread(ranks: Tensor, shape: torch.Size, unit: str, left: Tensor | None) -> Tensor:
    """Return scores of single weights that rank its units as `ranks` do; what is pruned, last.

    ranks: whole numbers from 1 on, (C_out,) for filters and (C_in,) for channels.  shape: of the
    weight as (out, in, ...).  left: bool mask of that shape.
    """
    axis = unit_axis(unit)
    if left is not None:
        ranks = torch.where(left.transpose(0, axis).flatten(1).any(1), ranks, 0.0)
    # The whole at one weight: its square, which a group's sum of squares is, is exact.
    scores = torch.zeros(shape, dtype=ranks.dtype, device=ranks.device)
    scores[tuple(slice(None) if i == axis else 0 for i in range(len(shape)))] = ranks
    return scores


def check_ranking(
    score: str,
    names: list[str],
    scores: list[Tensor],
    counts: Counts,
    sizes: list[int],
    each: bool,
) -> None:
    """Refuse scores that rank nothing: all the same where some are to stay and others not.

    score: how errors call it.  counts: that stay; of one for all layers they rank all together.
    sizes: how many weights or units each layer has.  each: look at each layer by itself, where each
    has a count of its own; else it is enough that they differ somewhere.
    """
    if isinstance(counts, int) or not each:
        total = counts if isinstance(counts, int) else sum(counts or [0])
        same = ["all layers"] if total < sum(sizes) and _are_constant(scores) else []
    else:
        kept = [0] * len(sizes) if counts is None else counts
        layers = zip(names, scores, kept, sizes, strict=True)
        same = [name for name, part, n, size in layers if n < size and _are_constant([part])]
    if same:
        raise SparselthError(
            f"the score {score!r} is the same for all of {', '.join(same)}, and ranks nothing "
            "there: exclude such layers, or take another score"
        )


def _are_constant(parts: list[Tensor]) -> bool:
    # Of two, as a layer of two filters has, some criteria cannot tell which.
    ranges = [part.aminmax() for part in parts if part.numel()]
    if sum(part.numel() for part in parts) <= 2:
        return False
    return min(float(low) for low, _ in ranges) == max(float(high) for _, high in ranges)


def _alike(tensors: list[Tensor]) -> list[list[int]]:
    """Group the places of tensors of one dtype and device, as the ops take them."""
    places: dict[Hashable, list[int]] = {}
    for i, tensor in enumerate(tensors):
        places.setdefault((tensor.dtype, tensor.device), []).append(i)
    return list(places.values())


def _of_one_kind(names: list[str], scores: list[Tensor]) -> list[Tensor]:
    """Return scores of layers that are ranked together, in the widest of their dtypes."""
    devices = {score.device for score in scores}
    if len(devices) > 1:
        where = ", ".join(f"{n} on {s.device}" for n, s in zip(names, scores, strict=True))
        raise SparselthError(
            f'allocation="global" ranks all layers together, on one device; got {where}'
        )
    dtypes = {score.dtype for score in scores}
    if len(dtypes) == 1:
        return scores
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    return [score.to(wide) for score in scores]
