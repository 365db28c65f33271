"""Gradients that come past a masked module's forward are set to zero off the mask, too."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..ops.bitmask import take_mark


class HasMask(Protocol):
    """Who knows a parameter's mask, see `state.MaskState`.

    on_gradient: who wants every gradient as it comes, before it is set to zero off the mask.
    """

    on_gradient: Callable[[Tensor], None] | None

    def mask_in_slots(self) -> Tensor:
        """Return the mask as its owners have it."""

    def keeps_all_of(self, mask: Tensor) -> bool:
        """Say whether `mask` is known to keep everything."""

    def cut(self, grad: Tensor, mask: Tensor) -> Tensor:
        """Return a gradient of the parameter with zeros off `mask`."""


class GradientHook:
    """The hook on a parameter that sets its gradients to zero off the mask that are not so already.

    held: whether a parameter has it.  mask: who knows the mask, held weakly.
    """

    def __init__(self, mask: HasMask) -> None:
        self.held = False
        self._mask = weakref.ref(mask)
        self._handle: RemovableHandle | None = None
        self._holder = 0  # the address of what has the hook, which the parameter stands for

    def hold(self, parameter: nn.Parameter) -> None:
        """Put the hook on a parameter that takes gradients."""
        if not parameter.requires_grad or parameter.is_inference():
            return
        known = self._mask

        def zero_off_mask(grad: Tensor) -> Tensor | None:
            state = known()
            if state is None:
                return None
            if state.on_gradient is not None:
                state.on_gradient(grad)
            mask = state.mask_in_slots()
            on_mask = take_mark(grad, mask) or state.keeps_all_of(mask)
            return None if on_mask else state.cut(grad, mask)

        self._handle = parameter.register_hook(zero_off_mask)
        self._holder = parameter._cdata
        self.held = True

    def drop(self, parameter: nn.Parameter) -> None:
        """Take it off again."""
        if self._handle is None:
            return
        self._handle.remove()
        self._handle, self.held = None, False
        # torch.utils.swap_tensors leaves the table with the object, and what calls it with the
        # values. Setting it makes a new caller, for the hooks of others too.
        parameter._backward_hooks = parameter._backward_hooks or None

    def follow(self, parameter: nn.Parameter) -> None:
        """Put it on anew where the values were swapped beneath the parameter."""
        if self.held and self._holder != parameter._cdata:
            self.drop(parameter)
            self.hold(parameter)
