"""find_masks: a score ranks weights, an allocation says how many stay, top-k picks them.

The axes are registries of plain functions. A new method is one function and one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from ..errors import SparselthError, unknown_name
from ..ops import functional
from ..ops.binding import mask_of
from ..ops.checks import ALLOCATIONS, check_sparsity, kept, kept_counts
from .tensors import prunable_parameters


def magnitude(weights: list[Tensor]) -> list[Tensor]:
    """Score a weight by its absolute value (Han et al. 2015, arXiv:1506.02626)."""
    return weights  # top-k ranks by magnitude already


SCORES: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {"magnitude": magnitude}
PATTERNS = ("element",)

Sparsity = float | Mapping[str, float]


def counts_for(
    parameters: Mapping[str, Tensor], sparsity: Sparsity, allocation: str
) -> int | list[int]:
    """Return how many weights stay, as `functional.topk_mask` takes it.

    sparsity: one share for all, with allocation "uniform" or "global"; or by parameter name, with
    allocation "given".

    Raises SparselthError on a share outside [0, 1), names that do not fit, an unknown allocation.
    """
    tensors = list(parameters.values())
    if (allocation == "given") != isinstance(sparsity, Mapping):
        raise SparselthError(
            'a sparsity by parameter name goes with allocation="given", one number with the others;'
            f" got {type(sparsity).__name__} and {allocation!r}"
        )
    if not isinstance(sparsity, Mapping):
        counts, pooled = kept_counts(tensors, sparsity=sparsity, allocation=allocation)
        return counts[0] if pooled else counts
    if set(sparsity) != set(parameters):
        raise SparselthError(
            "sparsity and the prunable parameters differ in these names: "
            f"{sorted(set(sparsity) ^ set(parameters))}"
        )
    return [kept(t.numel(), check_sparsity(sparsity[name])) for name, t in parameters.items()]


@torch.no_grad()
def find_masks(
    model: nn.Module,
    score: str = "magnitude",
    sparsity: Sparsity = 0.9,
    allocation: str = "uniform",
    pattern: str = "element",
    exclude: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Choose which weights to keep: parameter name -> bool mask.

    score: what ranks the weights, one of `SCORES`.
    sparsity: share of the prunable weights to prune, in [0, 1); met exactly up to rounding, ties
    go to the lowest index. Or one share per parameter name.
    allocation: "uniform" prunes the same share of every layer, "global" ranks all layers together,
    "given" takes the sparsity of each layer from the mapping.
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
    parameters = prunable_parameters(model, exclude)
    weights = [p.detach() for p in parameters.values()]
    k = counts_for(parameters, sparsity, allocation)
    masks = functional.topk_mask(
        SCORES[score](weights), k, allocation=allocation, names=list(parameters)
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
