"""Scores of whole filters, from their weights alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...checks import check_number
from .context import Score, ScoreContext, needs

Rows = Callable[[Tensor], Tensor]


def _by_filter(
    weights: Mapping[str, Tensor], context: ScoreContext, score: Rows
) -> dict[str, Tensor]:
    """Return what `score` makes of each weight's filters (C_out, n), in float64: (C_out,)."""
    return {n: score(context.filters(n, w).double()) for n, w in weights.items()}


@needs(unit="filter")
def l1(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by the mean magnitude of its weights.

    The mean, not the sum, so that layers of other filter sizes can be ranked together.

    Reference: Li et al. 2017, arXiv:1608.08710, section 3.1.
    """
    return _by_filter(weights, context, lambda filters: filters.abs().mean(1))


@needs(unit="filter")
def l2(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by the root mean square of its weights.

    "magnitude" with pattern="filter" ranks by the norm itself: the same within a layer.

    Reference: He et al. 2018, arXiv:1808.06866 (soft filter pruning).
    """
    return _by_filter(weights, context, lambda filters: filters.square().mean(1).sqrt())


@needs(unit="filter")
def fpgm(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by the sum of its distances to all filters of its layer.

    Those nearest to the geometric median, which the others can replace, go first: the paper's
    "FPGM-only". Divided by the root of a filter's size and by the number of filters, so that layers
    can be ranked together.

    Reference: He et al. 2019, arXiv:1811.00250, equation 6.
    """
    return _by_filter(weights, context, _distances)


def fpgm_after_norm(share: float) -> Score:
    """Return the score of FPGM's two stages: by norm first, then by distance among the rest.

    share: of each layer's filters that the first stage prunes, those of smallest norm; distances
    are taken among the others. Where fewer are pruned in all, the norm alone decides.

    Raises SparselthError for a share outside [0, 1).

    Reference: He et al. 2019, arXiv:1811.00250, section 4.1 ("FPGM-mix", 10 % by norm).
    """
    share = check_number("share", share, 0.0, below=1.0)

    def two_stages(filters: Tensor) -> Tensor:
        norms = filters.square().mean(1).sqrt()
        first = norms.argsort(stable=True)[: round(share * len(filters))]
        rest = torch.ones_like(norms, dtype=torch.bool)
        rest[first] = False
        scores = torch.empty_like(norms)
        scores[rest] = 1 + _distances(filters[rest])
        # Below all of the rest, and in the order of their norms.
        scores[first] = norms[first] / norms.max().clamp(min=torch.finfo(norms.dtype).tiny)
        return scores

    @needs(unit="filter")
    def fpgm_mix(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
        return _by_filter(weights, context, two_stages)

    return fpgm_mix


def _distances(filters: Tensor) -> Tensor:
    # Not by way of a matrix product, which does not give a copy the distance zero.
    apart = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.mean(1) / filters.shape[1] ** 0.5
