"""Gates on feature maps: factors for each filter of a layer, where the next layer takes its map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import called
from ...errors import SparselthError
from .derivatives import Batch, Loss
from .maps import Follow, layers_of


class GatedLoss:
    """The loss of a model with gates on the maps of some layers, in evaluation mode.

    weights: whose layers, by name.  data: batches (x, y), all kept.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, data: Iterable[Batch], weights: Iterable[str]
    ) -> None:
        self.model = getattr(model.eval(), "_orig_mod", model)
        self.loss = loss
        self.batches = list(data)
        if not self.batches:
            raise SparselthError("data holds no batch; this score wants at least one")
        self.layers = layers_of(self.model, weights)
        # Which of a layer's maps the next layer takes: the last one that a plain forward shows.
        with torch.no_grad(), Follow(self.layers, self.model) as follow:
            called(self.model, [self.batches[0][0]], "the x of batch 0")
        self.last = {call.name: call.maps - 1 for call in follow.calls}
        unused = sorted(self.layers.keys() - self.last.keys())
        if unused:
            raise SparselthError(f"the layers of {', '.join(unused)} are not called; exclude them")

    def of(self, gates: Mapping[str, Tensor], number: int) -> Tensor:
        """Return the loss of a batch, a scalar, with gates (C,) by weight name."""

        def gated(name: str, which: int, found: Tensor) -> Tensor:
            if name not in gates or which != self.last[name]:
                return found
            return found * gates[name].view(1, -1, *[1] * (found.dim() - 2)).to(found.dtype)

        x, y = self.batches[number % len(self.batches)]
        with Follow(self.layers, self.model, gated):
            out: Any = called(self.model, [x], f"the x of batch {number % len(self.batches)}")
        loss = self.loss(out, y)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not bool(torch.isfinite(loss)):
            which = number % len(self.batches)
            raise SparselthError(f"the loss of batch {which} must be a finite scalar, got {loss}")
        return loss.reshape(())

    @torch.no_grad()
    def mean(self, gates: Mapping[str, Tensor]) -> float:
        """Return the mean loss over all batches."""
        return sum(float(self.of(gates, i)) for i in range(len(self.batches))) / len(self.batches)
