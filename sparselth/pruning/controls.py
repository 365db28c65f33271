"""Sanity controls: what a mask or its weights are worth beyond the number kept in each layer.

A method whose networks train no worse under these controls has found layer-wise densities, not
weights.

Reference: Frankle et al. 2021, "Pruning Neural Networks at Initialization: Why Are We Missing the
Mark?", arXiv:2009.08576; Su et al. 2020, "Sanity-Checking Pruning Methods: Random Tickets can Win
the Jackpot", arXiv:2009.11094.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..checks import check_mapping, check_name
from ..errors import SparselthError
from ..ops.checks import MASKS, check_finite, check_mask, check_tensors
from ..ops.parameter_masks import clean_among_
from ..seeds import generator
from .scores import SCORES, Score, ScoreContext, needs
from .scores.context import UNITS, declared
from .scores.ranking import find_score, unit_axis


def shuffled_masks(
    masks: Mapping[str, Tensor], seed: int, *, unit: str = "weight"
) -> dict[str, Tensor]:
    """Permute each layer's mask at random within the layer; each keeps as many weights.

    masks: parameter name -> bool mask, (C_out, C_in, ...).  seed: decides, with the layer's name;
    the same on every device.  unit: what is moved as a whole, "weight", "filter" or "channel", as
    a score says it. Those of transposed convolutions lie along the other axis, as masks of whole
    units show: one that is the same along its own axis is moved along the other.
    Returns new masks, each on its mask's device.

    Raises SparselthError on a mask that is not bool, and an unknown unit.

    Reference: Frankle et al. 2021, arXiv:2009.08576 (shuffling); Su et al. 2020, arXiv:2009.11094
    (layerwise rearrange).
    """
    check_mapping("masks", masks, MASKS)
    check_name("unit", unit, UNITS)
    shuffled = {}
    for name, mask in masks.items():
        check_mask(mask, mask, f"the mask of {name}")
        rng = generator(seed, "shuffled masks", name)
        moved = mask.flatten() if unit == "weight" else mask
        axis = 0 if unit == "weight" else _axis_of_units(mask, unit)
        order = torch.randperm(moved.shape[axis], generator=rng, device="cpu")
        shuffled[name] = moved.index_select(axis, order.to(mask.device)).reshape(mask.shape)
    return shuffled


def _axis_of_units(mask: Tensor, unit: str) -> int:
    """Return the axis of a mask's units: that of the other ones where those are what is whole."""
    axis = unit_axis(unit)
    if mask.dim() < 2:
        return 0
    alike = (
        [bool((mask == mask.narrow(along, 0, 1)).all()) for along in (0, 1)]
        if mask.numel()
        else [True, True]
    )
    return 1 - axis if alike[axis] and not alike[1 - axis] else axis


def inverted_score(score: str | Score) -> Score:
    """Return the score that ranks the other way round: what `score` would prune first, stays.

    score: as in `find_masks`, which takes what this returns. In one step, unless it is told.

    Raises SparselthError as `find_masks` does for a score.

    Reference: Frankle et al. 2021, arXiv:2009.08576 (inversion).
    """
    known = find_score(score, SCORES)
    says = declared(known)

    @needs(*says.names, signed=True, unit=says.unit)
    def inverted(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
        scores = known(weights, context)
        return {name: -s if says.signed else -s.abs() for name, s in scores.items()}

    return inverted


@torch.no_grad()
def inverted_masks(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep, in each layer, as many weights as its mask, but those of the smallest magnitude.

    Ties go to the lowest index.
    masks: parameter name -> bool mask.  weights: parameter name -> tensor of its mask's shape and
    device; it may hold other names, too.

    Raises SparselthError on a mask without its weight, another shape or device, a mask that is not
    bool, or NaN or Inf in a weight.

    Reference: Frankle et al. 2021, arXiv:2009.08576 (inversion), for magnitude.
    """
    _check(masks, weights)
    check_finite(list(masks), [weights[name] for name in masks])
    inverted = {}
    for name, mask in masks.items():
        order = weights[name].abs().flatten().sort(stable=True).indices
        flat = torch.zeros_like(order, dtype=torch.bool)
        flat[order[: int(mask.count_nonzero())]] = True
        inverted[name] = flat.reshape(mask.shape)
    return inverted


@torch.no_grad()
def shuffled_weights(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """Permute the remaining weights of each layer at random among the remaining places.

    The pruned weights' values stay as they are.
    weights: parameter name -> tensor; those without a mask are handed on, the same tensors.
    masks: parameter name -> bool mask of its weight's shape and device.  seed: decides, with the
    layer's name; the same on every device.
    Returns new tensors for the masked weights, in the order of `weights`.

    Raises SparselthError on a mask without its weight, another shape or device, or a mask that is
    not bool.

    Reference: Su et al. 2020, arXiv:2009.11094 (layerwise weights shuffling).
    """
    _check(masks, weights)
    shuffled = dict(weights)
    for name, mask in masks.items():
        weight = weights[name].detach().clone()
        values = weight[mask]
        rng = generator(seed, "shuffled weights", name)
        order = torch.randperm(values.numel(), generator=rng, device="cpu")
        weight[mask] = values[order.to(values.device)]
        shuffled[name] = weight
    return shuffled


def _check(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    check_mapping("masks", masks, MASKS)
    check_tensors("weights", weights)
    if missing := sorted(set(masks) - set(weights)):
        raise SparselthError(
            f"there are masks of {missing}, but no such weights; pass both of one model"
        )
    for name, mask in masks.items():
        check_mask(mask, weights[name], f"the mask of {name}")
    clean_among_(weights.values())  # parameters of a sparse model, as parameters() hands them out
