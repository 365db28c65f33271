"""Weights packed once a step, for the forward and the input gradient."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from .. import derived
from .kernel import ConvKernel

# Under what a forward leaves them with the weight.
_PACKED = "packed blocks"


class PackingKernel(ConvKernel):
    """A kernel that reads its weights packed, in an order of its own."""

    @abstractmethod
    def pack(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Return a weight's kept blocks as the passes read them."""

    def packed_anew(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Pack a weight for a forward, and keep that for the input gradient."""
        packed = self.pack(weight, mask)
        if not weight.is_inference():
            derived.note(weight, _PACKED, (self, packed))
        return packed

    def packed_before(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Return what the forward packed, or pack it where the weight has changed since."""
        known = None if weight.is_inference() else derived.recall(weight, _PACKED)
        if known is not None and known[0] is self:
            return known[1]
        return self.pack(weight, mask)
