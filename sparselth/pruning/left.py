"""What masks leave of a model, counted in the unit that a sparsity is a share of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import max_pool3d

from ..errors import SparselthError
from ..ops.checks import check_sparsity
from ..ops.patterns import ELEMENT, Blocks, Pattern, axes
from .allocation import Sparsity
from .channels import Coupled
from .selecting import Counts
from .structured import living_channels

Units = dict[str, tuple[float, float]]
"""Name of a layer or of channels that go together -> how much of it is left, and how much it has.

In groups, where the pattern counts those, in channels, in multiplications, or in weights.
"""


def units_of(weights: Mapping[str, Tensor], masks: Sequence[Tensor | None], by: Pattern) -> Units:
    """Return what is left of each layer, in groups of a pattern of boxes, else in weights.

    weights: by name, (out, in, ...).  masks: bool, one of each shape; None where all is left.
    """
    found: Units = {}
    for (name, weight), mask in zip(weights.items(), masks, strict=True):
        whole = by.groups(weight.shape) if isinstance(by, Blocks) else weight.numel()
        if mask is None:
            found[name] = whole, whole
        else:
            found[name] = (
                (_boxes(mask, by) if isinstance(by, Blocks) else int(mask.count_nonzero())),
                whole,
            )
    return found


def _boxes(mask: Tensor, by: Blocks) -> int:
    """Return in how many boxes a mask keeps anything."""
    if by == ELEMENT or not mask.numel():
        return int(mask.count_nonzero())
    cube = mask.reshape(axes(mask.shape))
    extents = (by.out, by.inputs, by.taps)
    box = [extent or n for extent, n in zip(extents, cube.shape, strict=True)]
    return int(max_pool3d(cube[None, None].float(), box, box, ceil_mode=True).sum())


def channels_of(model: nn.Module, groups: Sequence[Coupled], masks: Mapping[str, Tensor]) -> Units:
    """Return how many channels are left of each group of those that go together."""
    found: Units = {}
    for group in groups:
        living = living_channels(model, group, masks)
        found[group.name] = group.count if living is None else int(living.sum()), group.count
    return found


def costing(units: Units, costs: Mapping[str, float]) -> Units:
    """Return weights in multiplications.  costs: of a weight, by the layer's name."""
    return {name: (left * costs[name], of * costs[name]) for name, (left, of) in units.items()}


def pruned_share(units: Units, sparsity: Sparsity) -> float | dict[str, float]:
    """Return the share that is pruned already, by layer as `sparsity`; no more than that is."""
    if isinstance(sparsity, Mapping):
        return {n: min(1 - left / of, sparsity[n]) for n, (left, of) in units.items() if of}
    left, of = (sum(part) for part in zip(*units.values(), strict=True))
    return min(1 - left / max(of, 1), check_sparsity(sparsity))


def check_left(units: Units, counts: Counts) -> None:
    """Refuse counts of weights that stay, of each layer or of all, where masks leave fewer."""
    left = {name: int(weights) for name, (weights, _) in units.items()}
    if isinstance(counts, int):
        left, counts = {"all layers": sum(left.values())}, [counts]
    for (name, most), count in zip(left.items(), counts or [], strict=False):
        if count > most:
            raise SparselthError(
                f"within leaves {most} weights of {name}, and the sparsity keeps {count}: it is a "
                "share of all weights, so raise it above that of within"
            )


def check_saved(units: Units, sparsity: float) -> None:
    """Refuse a share of multiplications to save that is below what masks save already."""
    left, of = (sum(part) for part in zip(*units.values(), strict=True))
    saved = 1 - left / max(of, 1)
    if saved > sparsity + 1e-9:
        raise SparselthError(
            f"within saves {saved:.3g} of the multiplications already, and the sparsity "
            f"{sparsity:g} is the share of all to save: raise it"
        )
