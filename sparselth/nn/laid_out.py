"""A mask in the memory layout of its parameter, as elementwise passes over both want it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.bitmask import bits_of


class LaidOut:
    """What is derived from a mask for elementwise passes, made when it is first asked for.

    A model in channels_last keeps its masks contiguous: plans are made of them. An optimizer that
    got such a mask with a weight in channels_last would copy everything it is given, every step.

    mask: bool, contiguous.
    """

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask
        self._bools: Tensor | None = None
        self._bits: Tensor | None = None

    def bools(self, parameter: Tensor) -> Tensor:
        """Return the mask, stored as `parameter`, of its shape, is."""
        if parameter.is_contiguous() or parameter.layout is not torch.strided:
            return self._mask
        found = self._bools
        if found is None or found.stride() != parameter.stride():
            # Kept for later: it must not be an inference tensor where it happens to be made first.
            with torch.inference_mode(False):
                found = torch.empty_like(parameter, dtype=torch.bool, requires_grad=False)
                self._bools = found = found.copy_(self._mask)
        return found

    def bits(self, parameter: Tensor) -> Tensor:
        """Return the mask as `bitmask.apply_bits` takes it for `parameter`, stored as that is."""
        wanted = (parameter.itemsize, parameter.stride())
        found = self._bits
        if found is None or (found.itemsize, found.stride()) != wanted:
            found = self._bits = bits_of(self._mask, parameter)
        return found

    @property
    def has_bits(self) -> bool:
        """Whether bits were asked for."""
        return self._bits is not None
