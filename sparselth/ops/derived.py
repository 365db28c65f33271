"""What is derived from a mask's values and asked for time and again, kept with its memory.

It hangs on the storage, and goes when that goes. A weak reference to the mask would do as well, but
for `torch.utils.swap_tensors`, which refuses tensors that have one: `load_state_dict` and moves
swap where `torch.__future__.set_swap_module_params_on_conversion` is on.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

_NAME = "_sparselth_derived"

# Of one storage: views of a mask that are made anew for each call must not pile up.
_KEPT = 16


def recall(mask: Tensor, what: Any) -> Any:
    """Return what was noted for `mask` as it is now, or None.  mask: no inference tensor."""
    noted = mask.untyped_storage().__dict__.get(_NAME, {})
    version, value = noted.get((what, _place(mask)), (None, None))
    return value if version == mask._version else None


def note(mask: Tensor, what: Any, value: Any) -> None:
    """Note what was derived from `mask` as it is now, under a name or key."""
    noted = mask.untyped_storage().__dict__.setdefault(_NAME, {})
    noted[what, _place(mask)] = (mask._version, value)
    while len(noted) > _KEPT:
        del noted[next(iter(noted))]


def forget(mask: Tensor) -> None:
    """Forget everything derived from the memory of `mask`."""
    mask.untyped_storage().__dict__.pop(_NAME, None)


def _place(mask: Tensor) -> tuple:
    # Of a view that is the tensor it was made from: each call may make the view anew. An id may be
    # used again, by another tensor: of the same values, if all this is the same too.
    base = mask._base
    return (id(mask if base is None else base), mask.shape, mask.stride(), mask.storage_offset())
