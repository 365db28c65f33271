"""find_masks: a score ranks weights, an allocation says how many stay, top-k picks them.

The axes are registries of plain functions. A new method is one function and one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from ..errors import unknown_name
from ..ops import functional
from ..ops.binding import mask_of
from ..ops.checks import ALLOCATIONS, check_sparsity, kept_counts
from .tensors import prunable_parameters


def magnitude(weights: list[Tensor]) -> list[Tensor]:
    """Score a weight by its absolute value (Han et al. 2015, arXiv:1506.02626)."""
    return weights  # top-k ranks by magnitude already


SCORES: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {"magnitude": magnitude}
PATTERNS = ("element",)


@torch.no_grad()
def find_masks(
    model: nn.Module,
    score: str = "magnitude",
    sparsity: float = 0.9,
    allocation: str = "uniform",
    pattern: str = "element",
    exclude: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Choose which weights to keep: parameter name -> bool mask.

    score: what ranks the weights, one of `SCORES`.
    sparsity: share of the prunable weights to prune, in [0, 1); met exactly up to rounding, ties
    go to the lowest index.
    allocation: "uniform" prunes the same share of every layer, "global" ranks all layers together.
    pattern: what is pruned as one unit, one of `PATTERNS`.
    exclude: parameter names to leave dense; None leaves out the first convolution and the
    classifier, see `prunable_parameters`.

    Raises SparselthError for an unknown name (listing the known ones), a sparsity outside
    [0, 1), or NaN or Inf in a weight (naming it).
    """
    if score not in SCORES:
        raise unknown_name("score", score, SCORES)
    if pattern not in PATTERNS:
        raise unknown_name("pattern", pattern, PATTERNS)
    check_sparsity(sparsity)
    parameters = prunable_parameters(model, exclude)
    weights = [p.detach() for p in parameters.values()]
    scores = SCORES[score](weights)
    counts, pooled = kept_counts(scores, sparsity=sparsity, allocation=allocation)
    masks = functional.topk_mask(
        scores, counts[0] if pooled else counts, allocation=allocation, names=list(parameters)
    )
    return dict(zip(parameters, masks, strict=True))


def sparsity(of: nn.Module | Mapping[str, Tensor]) -> float:
    """Return the share of pruned entries, in [0, 1], of a sparsified model or of masks."""
    if isinstance(of, nn.Module):
        masks = [mask for p in of.parameters() if (mask := mask_of(p)) is not None]
    else:
        masks = list(of.values())
    total = sum(mask.numel() for mask in masks)
    return 1.0 - sum(int(mask.sum()) for mask in masks) / total if total else 0.0


__all__ = ["ALLOCATIONS", "PATTERNS", "SCORES", "find_masks", "sparsity"]
