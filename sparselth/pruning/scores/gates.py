"""Gates on feature maps: factors for each filter of a layer, where the next layer takes its map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...errors import SparselthError
from .batches import Batch, Loss, loss_of, pairs, size_of
from .maps import Follow, layers_of
from .running import run, without_pruned


class GatedLoss:
    """The loss of a model with gates on the maps of some layers, in evaluation mode.

    weights: whose layers, by name.  data: batches (x, y), all kept.  left: parameter name -> bool
    mask; the model is that without what they prune.

    Raises SparselthError for no batch, one that is no pair, and a layer that is not called.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Iterable[Batch],
        weights: Iterable[str],
        left: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.whole, self.model = model.eval(), without_pruned(model, left or {})
        self.loss = loss
        self.batches = list(pairs(data))
        if not self.batches:
            raise SparselthError("data holds no batch; this score wants at least one")
        self.layers = layers_of(self.whole, weights)
        # Which of a call's maps the next layer takes: the last one that a plain forward shows.
        with torch.no_grad(), Follow(self.layers, self.whole) as follow:
            run(self.model, self.batches[0][0], 0)
        self.last = [call.maps - 1 for call in follow.calls]
        unused = sorted(self.layers.keys() - {call.name for call in follow.calls})
        if unused:
            raise SparselthError(f"the layers of {', '.join(unused)} are not called; exclude them")

    def of(self, gates: Mapping[str, Tensor], number: int) -> Tensor:
        """Return the loss of a batch, a scalar, with gates (C,) by weight name."""

        def gated(name: str, call: int, which: int, found: Tensor) -> Tensor:
            if name not in gates or call >= len(self.last) or which != self.last[call]:
                return found
            return found * gates[name].view(1, -1, *[1] * (found.dim() - 2)).to(found.dtype)

        place = number % len(self.batches)
        x, y = self.batches[place]
        with Follow(self.layers, self.whole, gated):
            out = run(self.model, x, place)
        return loss_of(self.loss, out, y, place)

    @torch.no_grad()
    def mean(self, gates: Mapping[str, Tensor]) -> float:
        """Return the mean loss over all batches, each counted by its examples."""
        sizes = [size_of(x, y) for x, y in self.batches]
        losses = [float(self.of(gates, i)) * size for i, size in enumerate(sizes)]
        return sum(losses) / max(sum(sizes), 1)
