"""Patterns made of others: filters and columns at once, and channels that go together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SparselthError
from ..nn.kinds import Site, sites_of
from ..ops import selection
from .allocation import TOGETHER, Sparsity
from .channels import Coupled, axis_of, index_of
from .coupling import coupled_channels
from .scores.batches import first_input
from .tensors import kept_dense, layer_of

# Rounds of choosing filters by the columns that stay and columns by the filters: few are needed.
_ROUNDS = 20


def filters_and_columns(scores: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Keep some filters, and of them some columns: weights (input, tap) of all that are left.

    Filters and columns are kept by the same share, the root of the density, as far as whole ones
    go. Each is ranked by the sum of squares over what is kept of the other, until nothing changes.
    scores: (C_out, C_in, ...) each, finite.  counts: about how many weights stay in each.
    Returns bool masks; of each the product of what its rows and its columns keep.

    Reference: Liu et al. 2020, "AutoCompress", arXiv:1907.03141, section 3 (structured pruning of
    filters and columns combined).
    """
    return [_one(score, count) for score, count in zip(scores, counts, strict=True)]


def _one(score: Tensor, count: int) -> Tensor:
    squares = score.detach().double().flatten(1).square()
    filters, columns = squares.shape
    if not squares.numel() or count >= squares.numel():
        return torch.ones_like(score, dtype=torch.bool)
    rows = min(max(round((count * filters / columns) ** 0.5), 1), filters)
    across = min(max(round(count / rows), 1), columns)
    whole = torch.ones(filters, dtype=torch.bool, device=score.device)
    starts = whole, _largest(squares.sum(1), rows)
    found = [_settled(squares, start, rows, across) for start in starts]
    kept = max(found, key=lambda mask: float(squares[mask].sum()))
    return kept.view(score.shape)


def _settled(squares: Tensor, by_rows: Tensor, rows: int, across: int) -> Tensor:
    """Choose columns by the rows and rows by the columns until that keeps no more."""
    best, kept = -1.0, torch.zeros_like(squares, dtype=torch.bool)
    for _ in range(_ROUNDS):
        by_columns = _largest(squares[by_rows].sum(0), across)
        by_rows = _largest(squares[:, by_columns].sum(1), rows)
        value = float(squares[by_rows][:, by_columns].sum())
        if value <= best:
            break
        best, kept = value, by_rows[:, None] & by_columns
    return kept


def _largest(values: Tensor, count: int) -> Tensor:
    mask = selection.topk_mask(values, count)
    assert isinstance(mask, Tensor)
    return mask


def prunable_groups(
    model: nn.Module,
    sites: Mapping[str, Site],
    sparsity: Sparsity | None,
    allocation: str,
    data: Iterable[Any] | None,
    exclude: Collection[str] | None,
) -> tuple[Coupled, ...]:
    """Return the groups of channels that pattern="coupled" prunes.

    Left whole are those of outputs, those that a norm over channels or a grouped convolution mixes,
    those that a weight makes which is not among `sites`, and those that one takes which cannot have
    a mask. What takes channels is pruned with them, the classifier too, unless `exclude` names it.

    Raises SparselthError where there is no input to find them by, no one share, or none is left.
    """
    if data is None:
        raise SparselthError(
            'pattern="coupled" finds which channels go together by an input; pass data=[(x, y)]'
        )
    if isinstance(sparsity, Mapping) or allocation not in ("uniform", *TOGETHER):
        raise SparselthError(
            'pattern="coupled" takes one share, of the channels, and allocation="uniform" or '
            f'"global"; got sparsity={sparsity!r} and {allocation!r}'
        )
    groups = coupled_channels(model, first_input(data)[:1])
    whole = {name for name, site in sites_of(model).items() if site.refusal}
    whole |= set() if exclude is None else set(kept_dense(model, exclude))
    able = [
        group
        for group in groups
        if not group.fixed
        and group.producers.keys() | group.hands_on.keys() <= sites.keys()
        and not whole & group.consumers.keys()
    ]
    if not able:
        reasons = sorted({group.fixed for group in groups if group.fixed})
        raise SparselthError(
            "no channels of the model can be pruned together"
            + (f" ({'; '.join(reasons[:3])})" if reasons else "")
            + "; exclude fewer layers"
        )
    return tuple(able)


def coupled_masks(
    model: nn.Module,
    groups: Sequence[Coupled],
    scores: Mapping[str, Tensor],
    left: Mapping[str, Tensor],
    sparsity: float,
    together: bool,
) -> dict[str, Tensor]:
    """Prune whole channels, wherever they are made, handed on and taken.

    groups: of the channels that may go.  scores: of the weights that rank them, by name: of each
    weight, or one of each filter; a channel's is the mean square over all that makes it.
    left: masks of what is not pruned yet.  sparsity: the share of channels to prune.  together:
    rank the channels of all groups together; else each loses the same share. One stays in each.
    Returns parameter name -> bool mask of every weight that makes or takes such channels.
    """
    values = [_channel_values(model, group, scores, left) for group in groups]
    counts = [max(round((1 - sparsity) * group.count), 1) for group in groups]
    if together:
        # The best of each group first of all, lest one is left with nothing.
        ahead = [v + torch.where(v == v.max(), 1 + float(_most(values)), 0.0) for v in values]
        total = max(round((1 - sparsity) * sum(g.count for g in groups)), len(groups))
        kept = selection.topk_mask(ahead, total, allocation="global")
    else:
        kept = selection.topk_mask(values, counts, allocation="given")
    masks: dict[str, Tensor] = {}
    for group, stays in zip(groups, kept, strict=True):
        gone = (~stays).nonzero().flatten().tolist()
        for name, of, outputs in group.roles():
            if name in group.norms:
                continue
            weight = model.get_parameter(name)
            mask = masks.setdefault(name, torch.ones_like(weight, dtype=torch.bool))
            index = index_of((of[c] for c in gone), mask.device)
            mask.index_fill_(axis_of(layer_of(model, name), outputs), index, False)
    return masks


def _most(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.max() for value in values]).max()


def _channel_values(
    model: nn.Module, group: Coupled, scores: Mapping[str, Tensor], left: Mapping[str, Tensor]
) -> Tensor:
    """Return the mean square of all scores of each channel, zero where none of it is left."""
    sums, counts = torch.zeros(group.count).double(), 0
    for name, places in (group.producers | group.hands_on).items():
        if name not in scores:
            continue
        layer, score = layer_of(model, name), scores[name].double()
        axis = axis_of(layer, True) if score.dim() > 1 else 0
        rows = score.transpose(0, axis).reshape(score.shape[axis], -1).square()
        index = torch.tensor(places, device=score.device)
        sums = sums.to(score.device) + rows[index].flatten(1).sum(1)
        counts += rows[index[0]].numel()
    means = sums / max(counts, 1)
    living = living_channels(model, group, left)
    return means if living is None else torch.where(living, means.clamp(min=1e-300), 0.0)


def living_channels(model: nn.Module, group: Coupled, left: Mapping[str, Tensor]) -> Tensor | None:
    """Return which channels masks leave any weight that makes them, (count,) bool; None for all."""
    living = None
    for name, places in (group.producers | group.hands_on).items():
        if name in left:
            index = torch.tensor(places, device=left[name].device)
            rows = left[name].transpose(0, axis_of(layer_of(model, name), True)).flatten(1)
            some = rows.any(1)[index].any(1)
            living = some if living is None else living | some
    return living
