"""Which mask belongs to which parameter.

A mask lives in the module that uses it; an optimizer sees parameters only. This weak table
joins the two. Modules keep it up to date; entries vanish with their parameter.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_masks = WeakIdKeyDictionary()


def bind_mask(parameter: Tensor, mask: Tensor | None) -> None:
    """Record `mask` (bool, the parameter's shape) as the parameter's mask; None forgets it."""
    if mask is None:
        _masks.pop(parameter, None)
    else:
        _masks[parameter] = mask


def mask_of(parameter: Tensor) -> Tensor | None:
    """Return the mask bound to `parameter`, or None."""
    return _masks.get(parameter)
