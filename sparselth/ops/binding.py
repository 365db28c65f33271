"""Which mask belongs to which parameter, and which passes of a plan are served densely.

A mask lives in the module that uses it; an optimizer sees parameters only, and an autograd formula
the plan only. Weak tables join them. Modules keep them up to date; entries vanish with their
parameter or plan.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_masks = WeakIdKeyDictionary()
_dense_passes = WeakIdKeyDictionary()
_NONE: frozenset[str] = frozenset()


def bind_mask(parameter: Tensor, mask: Tensor | None) -> None:
    """Record `mask` (bool, the parameter's shape) as the parameter's mask; None forgets it."""
    if mask is None:
        _masks.pop(parameter, None)
    else:
        _masks[parameter] = mask


def mask_of(parameter: Tensor) -> Tensor | None:
    """Return the mask bound to `parameter`, or None."""
    return _masks.get(parameter)


def bind_dense_passes(plan: Tensor | None, passes: frozenset[str]) -> None:
    """Record which passes, of "forward", "grad_input" and "grad_weight", are dense under `plan`."""
    if plan is None:
        return
    if passes:
        _dense_passes[plan] = passes
    else:
        _dense_passes.pop(plan, None)


def dense_passes_of(plan: Tensor | None) -> frozenset[str]:
    """Return the passes bound to `plan`; none where nothing was bound."""
    if plan is None or not _dense_passes.data:  # the usual case costs no weak reference
        return _NONE
    return _dense_passes.get(plan, _NONE)
