"""The oracle of the ops that select the largest of lists of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .mask import apply_mask
from .ranking import largest, select_masks


def _nonfinite(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([(~t.isfinite()).sum() for t in tensors])


def topk_mask(scores, k, global_, pattern):
    """Return mask[l][i] = |scores[l][i]| is among the k largest, and how many are NaN or Inf."""
    return select_masks(scores, k, global_, pattern), _nonfinite(scores)


def admm_project_(weights, z, u, k, global_, pattern, allow_nonfinite):
    """Do V = W + U;  Z <- Proj(V);  U <- V - Proj(V); return |W - Z|^2 and |Z_new - Z_old|^2."""
    sums = [w + dual for w, dual in zip(weights, u, strict=True)]
    nonfinite = _nonfinite(sums)
    if not allow_nonfinite and nonfinite.any():
        none = torch.zeros(len(sums), 2, dtype=torch.float64, device=sums[0].device)
        return none.masked_fill_(nonfinite.bool().view(-1, 1), float("nan"))
    masks = select_masks(sums, k, global_, pattern)
    residuals = []
    for weight, z_l, u_l, v, mask in zip(weights, z, u, sums, masks, strict=True):
        projected = apply_mask(v, mask)
        primal = (weight.double() - projected.double()).square().sum()
        change = (projected.double() - z_l.double()).square().sum()
        residuals.append(torch.stack((primal, change)))
        z_l.copy_(projected)
        u_l.copy_(apply_mask(v, ~mask))
    return torch.stack(residuals)


def weight_overlap(a, b, masks, k):
    """Return |top(a[l], k) and top(b[l], k)|: how many indices coincide; -1 with NaN or Inf."""
    requests = len(k) // len(a)
    shared = []
    for i, n in enumerate(k):
        layer = i // requests
        inside = masks[layer] if masks else None
        of_a, of_b = (largest(x[layer], n, inside) for x in (a, b))
        shared.append((of_a & of_b).sum())
    given = masks or [None] * len(a)
    bad_a, bad_b = (
        _nonfinite([apply_mask(*pair) for pair in zip(x, given, strict=True)]) for x in (a, b)
    )
    counts = torch.stack(shared).view(len(a), requests)
    return counts.masked_fill_((bad_a + bad_b).bool().view(-1, 1), -1)
