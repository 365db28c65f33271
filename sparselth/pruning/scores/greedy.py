"""Greedy forward selection: filters come in one by one, the one that lowers the loss most first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .context import ScoreContext, needs
from .gates import GatedLoss

# So many filters are tried for each place; the authors' code draws as many.
_CANDIDATES = 50


@needs("data", "loss", "kept", unit="filter")
def greedy_forward(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by how early it comes in when a layer is built up from nothing.

    Layer by layer, the others whole: of up to 50 filters drawn from those that are out, the one
    comes in with which the mean loss over all of `data` is lowest, until as many are in as are to
    stay. The layer's map is N/n times that of the n that are in, of N: their average, as the
    paper has it (a step of 1/(n + 1)). A filter comes in once; the masks do not scale weights.
    Costs 50 forwards of all batches for each filter that stays: take few.

    Raises SparselthError as `snip` does, and with allocation="global".

    Reference: Ye et al. 2020, arXiv:2003.01794, algorithm 1.
    """
    assert context.data is not None
    assert context.loss is not None
    assert context.kept is not None
    loss = GatedLoss(context.model, context.loss, context.data, weights, context.masks)
    draw = torch.Generator().manual_seed(0)
    scores = {}
    for name, weight in weights.items():
        count = len(context.filters(name, weight))
        scores[name] = _scores(loss, name, count, context.kept[name], draw).to(weight.device)
    return scores


def _scores(loss: GatedLoss, name: str, count: int, kept: int, draw: torch.Generator) -> Tensor:
    """Return for each filter how many come in after it, (count,); 0 for those that stay out."""
    scores = torch.zeros(count, dtype=torch.float64)
    inside: list[int] = []
    # With all to stay there is nothing to choose.
    while len(inside) < kept < count:
        out = [i for i in range(count) if i not in inside]
        order = torch.randperm(len(out), generator=draw)[:_CANDIDATES]
        tried = sorted(out[int(i)] for i in order)
        losses = [loss.mean({name: _average([*inside, i], count)}) for i in tried]
        best = tried[losses.index(min(losses))]
        scores[best] = kept - len(inside)
        inside.append(best)
    return scores + 1 if kept >= count else scores


def _average(inside: list[int], count: int) -> Tensor:
    gates = torch.zeros(count, dtype=torch.float64)
    gates[inside] = count / len(inside)
    return gates
