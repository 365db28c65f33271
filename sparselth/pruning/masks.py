"""find_masks: a score ranks weights, an allocation says how many stay, top-k picks them.

The axes are registries of plain functions. A new method is one function and one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from ..errors import SparselthError, unknown_name
from ..ops import selection
from ..ops.binding import mask_of
from ..ops.checks import ALLOCATIONS, check_sparsity, kept, kept_counts
from ..ops.patterns import ELEMENT, Blocks, NOfM, Pattern
from .patterns import pattern_for
from .tensors import prunable_parameters


def magnitude(weights: list[Tensor]) -> list[Tensor]:
    """Score a weight by its absolute value (Han et al. 2015, arXiv:1506.02626)."""
    return weights  # top-k ranks by magnitude already


SCORES: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {"magnitude": magnitude}

Sparsity = float | Mapping[str, float]

DEFAULT_SPARSITY = 0.9


def counts_for(
    parameters: Mapping[str, Tensor],
    sparsity: Sparsity | None,
    allocation: str,
    pattern: Pattern = ELEMENT,
) -> int | list[int] | None:
    """Return how many weights or groups stay, as `selection.topk_mask` takes it.

    sparsity: one share for all, with allocation "uniform" or "global"; or by parameter name, with
    allocation "given". None: what the pattern prunes by itself, `DEFAULT_SPARSITY` for most.

    Raises SparselthError on a share outside [0, 1), names that do not fit, an unknown allocation,
    or a sparsity that the pattern cannot have.
    """
    if sparsity is None and isinstance(pattern, Blocks):
        sparsity = DEFAULT_SPARSITY
    by_name = isinstance(sparsity, Mapping)
    if (allocation == "given") != by_name or (by_name and isinstance(pattern, NOfM)):
        raise SparselthError(
            'a sparsity by parameter name goes with allocation="given" and a pattern that leaves '
            f"it free, one number with the others; got {type(sparsity).__name__} and {allocation!r}"
        )
    if isinstance(sparsity, Mapping):
        if set(sparsity) != set(parameters):
            raise SparselthError(
                "sparsity and the prunable parameters differ in these names: "
                f"{sorted(set(sparsity) ^ set(parameters))}"
            )
        assert not isinstance(pattern, NOfM)
        return [
            kept(pattern, [tuple(t.shape)], check_sparsity(sparsity[name]))
            for name, t in parameters.items()
        ]
    counts, pooled = kept_counts(
        list(parameters.values()), sparsity=sparsity, allocation=allocation, pattern=pattern
    )
    if isinstance(pattern, NOfM):
        return None
    return counts[0] if pooled else counts


@torch.no_grad()
def find_masks(
    model: nn.Module,
    score: str = "magnitude",
    sparsity: Sparsity | None = None,
    allocation: str = "uniform",
    pattern: str | Pattern = "element",
    exclude: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Choose which weights to keep: parameter name -> bool mask.

    score: what ranks the weights, one of `SCORES`.
    sparsity: share of the prunable weights to prune, in [0, 1); met exactly up to rounding, ties
    go to the lowest index. Or one share per parameter name. None is 0.9, or what the pattern
    prunes by itself.
    allocation: "uniform" prunes the same share of every layer, "global" ranks all layers together,
    "given" takes the sparsity of each layer from the mapping.
    pattern: what is pruned as one unit: "element", "filter", "channel", "kernel", blocks of
    outputs x inputs such as "16x1" or "32x32", "2:4" along the inputs, or "kernel_shape", a
    dictionary of 3x3 shapes found from the weights; or a pattern of `sparselth.ops.patterns`.
    A sparsity is a share of groups, or of weights with "kernel_shape".
    exclude: parameter names to leave dense; None leaves out the first convolution and the
    classifier, see `prunable_parameters`.

    Raises SparselthError for an unknown name (listing the known ones), a sparsity outside
    [0, 1) or beyond the pattern, or NaN or Inf in a weight (naming it).
    """
    if score not in SCORES:
        raise unknown_name("score", score, SCORES)
    parameters = prunable_parameters(model, exclude)
    scores = SCORES[score]([p.detach() for p in parameters.values()])
    groups = pattern_for(pattern, scores)
    k = counts_for(parameters, sparsity, allocation, groups)
    masks = selection.topk_mask(
        scores, k, allocation=allocation, pattern=groups, names=list(parameters)
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


__all__ = ["ALLOCATIONS", "SCORES", "find_masks", "sparsity"]
