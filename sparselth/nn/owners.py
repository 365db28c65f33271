"""Who has a parameter, and the masks that stand in their slots beside it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import SparselthError


def mask_name(name: str) -> str:
    """Return what the mask of a parameter is called, as a buffer of the same module."""
    return f"{name}_mask"


class Owners:
    """The modules that have a parameter with a mask, and what they call it; held weakly.

    is_shared: whether there are several.
    """

    def __init__(self) -> None:
        self._all: list[tuple[weakref.ref[nn.Module], str]] = []
        self.is_shared = False

    def __iter__(self) -> Iterator[tuple[nn.Module, str]]:
        for owner, name in self._all:
            module = owner()
            if module is not None:
                yield module, name

    def add(self, module: nn.Module, name: str) -> None:
        """Note that `module` has the parameter under `name`."""
        if not any(owner is module and name == other for owner, other in self):
            self._all.append((weakref.ref(module), name))
        self.is_shared = len(self._all) > 1

    def remove(self, module: nn.Module) -> None:
        """Forget an owner."""
        self._all = [(owner, name) for owner, name in self._all if owner() is not module]
        self.is_shared = len(self._all) > 1

    def other_mask(self, mask: Tensor) -> Tensor | None:
        """Return what stands in a slot instead of `mask`, put there past the module, if anything.

        On the meta device, where offloading leaves buffers, it has no values and does not count.
        """
        for owner, name in self._all:  # no generator: asked for in every step and backward
            module = owner()
            other = None if module is None else module._buffers.get(mask_name(name))
            if other is not None and other is not mask and not other.is_meta:
                return other
        return None

    def check_agree(self, mask: Tensor, before: Tensor) -> None:
        """Raise SparselthError where one has another mask than `mask`, and not the one `before`."""
        for module, name in self:
            other = module._buffers.get(mask_name(name))
            if other is None or other is before or other.is_meta:
                continue
            if not torch.equal(other.to(mask.device), mask):
                raise SparselthError(
                    f"two different masks were put into {mask_name(name)!r} of modules that share "
                    "the parameter; a shared weight has one"
                )
