"""Masks of sharded parameters: what FSDP2 puts in a parameter's place.

`torch.distributed.fsdp.fully_shard` puts a DTensor into the slot, which optimizers and saved state
see, and the whole parameter only while a module computes. The mask stays a whole buffer in every
process; here is the part of it that belongs to the part of the parameter.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..ops import reference
from ..ops.parameter_masks import bind, bound_to, unbind


class WholeMask(Protocol):
    """Who has a parameter's whole mask, see `state.MaskState`."""

    mask: Tensor

    def mask_changed(self) -> bool:
        """Say whether the mask holds something else than when it was last looked at."""

    def renew(self) -> None:
        """Forget what was derived from the mask before."""

    def take_slots(self) -> None:
        """Take a mask that was put into a slot past the module."""


class Shard:
    """A sharded parameter and its mask, a DTensor placed alike: a `parameter_masks.BoundMask`.

    whole: who has the whole mask.
    """

    def __init__(self, parameter: nn.Parameter, whole: WholeMask) -> None:
        self.parameter = parameter
        self._whole = weakref.ref(whole)
        self._mask: Tensor | None = None
        bind(parameter, self)

    @property
    def whole(self) -> Any:
        """Who has the whole mask; None once nobody needs it any more."""
        return self._whole()

    @property
    def mask(self) -> Tensor:
        """The mask of the part, as the whole one is now."""
        whole = self.whole
        if whole is not None and whole.mask_changed():
            whole.renew()
        if self._mask is None:
            assert whole is not None, "a shard was asked for its mask after its module was gone"
            self._mask = _placed_like(whole.mask, self.parameter)
        return self._mask

    def stored_mask(self) -> Tensor:
        """Return the mask of the part: nothing that depends on strides takes a DTensor."""
        return self.mask

    def take_slots(self) -> None:
        """Take a mask that was put into a slot past the module."""
        whole = self.whole
        if whole is not None:
            whole.take_slots()

    def forget(self) -> None:
        """Derive the mask anew when it is next asked for."""
        self._mask = None

    def release(self) -> None:
        """Let go of the parameter."""
        if bound_to(self.parameter) is self:
            unbind(self.parameter)

    def clean_(self) -> None:
        """Set the parameter to zero where its mask prunes it."""
        self.take_slots()
        if not self.parameter.is_meta:
            with torch.no_grad():
                reference.zero_off_mask_(self.parameter.data, self.mask)

    def mark_clean(self) -> None:
        """Nothing is recorded: what gathers the parameter does not look."""


def _placed_like(mask: Tensor, parameter: Any) -> Tensor:
    """Return a whole mask, the same in every process, placed like a sharded parameter.

    No process sends anything: each takes its own part.
    """
    from torch.distributed.tensor import distribute_tensor

    where = parameter.device_mesh, parameter.placements
    # FSDP may keep its part on the CPU, and the mesh is of GPUs.
    return distribute_tensor(mask, *where, src_data_rank=None).to(parameter.device)
