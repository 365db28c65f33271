"""Scores that look at the weights alone, as they are or as they were."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .context import ScoreContext, needs


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


@needs("initial")
def magnitude_init(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by its absolute value before training, in `initial`.

    Reference: Frankle et al. 2021, arXiv:2009.08576 (magnitude at initialization).
    """
    assert context.initial is not None
    return {name: context.initial[name] for name in weights}


@needs("initial", signed=True)
def movement(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by how far it moved away from zero: w^2 - w_0^2, the largest values stay.

    The paper sums -w dL/dw over the steps of training. A step of gradient descent moves w by
    -(learning rate) dL/dw, so at one rate the sum is that of w dw over it: half of this, up to the
    squares of single steps. With momentum or another optimizer it is what the weight really moved.

    Reference: Sanh et al. 2020, arXiv:2005.07683, section 3 (hard movement pruning).
    """
    assert context.initial is not None
    return {
        name: w.double().square() - context.initial[name].double().square()
        for name, w in weights.items()
    }
