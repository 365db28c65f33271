"""Scores that look at the weights alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .context import ScoreContext


def magnitude(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by its absolute value (Han et al. 2015, arXiv:1506.02626)."""
    return weights  # top-k ranks by magnitude already


def random(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score each weight by an independent draw from [0, 1), whatever it holds.

    Drawn from torch's global generator of the weight's device, in model order: `torch.manual_seed`
    decides, and a GPU draws other scores than the CPU does. Groups are ranked by their sums of
    squares as with any score, so the larger ones stay where groups differ in size.

    Reference: Frankle et al. 2021, arXiv:2009.08576 (random pruning, layer-wise).
    """
    # Single precision: in 16 bits many scores would tie, and ties are not broken at random.
    return {
        name: torch.rand(w.shape, device=w.device, dtype=torch.float32)
        for name, w in weights.items()
    }
