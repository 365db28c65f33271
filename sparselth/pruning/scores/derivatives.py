"""Derivatives of the loss by the weights, over batches: what scores from data are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...checks import called, kind
from ...errors import SparselthError
from ..processes import sum_over_processes

Loss = Callable[[Any, Any], Tensor]
Batch = tuple[Any, Any]


class WithValues(nn.Module):
    """A model that computes with other values for some of its parameters and buffers.

    values: returns name -> tensor, differentiated through where they require it; called in every
    forward, so that each has a graph of its own.
    """

    def __init__(self, model: nn.Module, values: Callable[[], dict[str, Tensor]]) -> None:
        super().__init__()
        self._run = lambda *args: functional_call(model, values(), args)

    def forward(self, *args: Any) -> Any:
        return self._run(*args)


class BatchLosses:
    """The loss of a model on batches, each counted by its first dimension, in training mode.

    names: of the weights to differentiate by.  left: name -> bool mask, of those that are pruned
    already: the model is that without what is pruned.  temperature: what the logits are divided by.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Iterable[Batch],
        names: Iterable[str],
        left: Mapping[str, Tensor],
        temperature: float = 1.0,
    ) -> None:
        self.loss, self.data, self.temperature = loss, data, temperature
        model.train()
        self.parameters = {name: model.get_parameter(name) for name in names}
        for name, parameter in self.parameters.items():
            if not parameter.requires_grad:
                raise SparselthError(f"{name} takes no gradient; set its requires_grad to score it")
        masks = {name: mask for name, mask in left.items() if name in self.parameters}

        def values() -> dict[str, Tensor]:
            kept = self.parameters
            return {name: torch.where(mask, kept[name], 0.0) for name, mask in masks.items()}

        self.model = WithValues(model, values) if masks else model

    def batches(self) -> Iterator[tuple[Tensor, int]]:
        """Yield the loss of each batch, a scalar with its graph, and how many examples it has.

        Raises SparselthError for a batch that is no pair, for none at all, and for a loss that is
        no finite scalar, or depends on no weight.
        """
        number = -1
        for number, (x, y) in enumerate(pairs(self.data)):
            yield self._of(number, x, y)
        if number < 0:
            raise SparselthError("data holds no batch; this score wants at least one")

    def gradients(self) -> dict[str, Tensor]:
        """Return dL/dw, name -> tensor; zero where the loss does not depend on a weight.

        Those of 16-bit weights are summed, and returned, in float32.
        """
        return self._mean(self._gradients)

    def gradients_by_batch(self) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Yield the gradients of each batch's own loss, as `gradients`, and its examples."""
        for loss, size in self.batches():
            found = zip(self.parameters.items(), self._gradients(loss), strict=True)
            yield {n: torch.zeros_like(p) if g is None else g for (n, p), g in found}, size

    def hessian_product(self, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return H v, name -> tensor: the Hessian of the loss times a vector, held constant."""

        def product(loss: Tensor) -> list[Tensor | None]:
            grads = self._gradients(loss, create_graph=True)
            both = zip(grads, self.parameters, strict=True)
            slope = torch.stack([(g * vector[n]).sum() for g, n in both if g is not None]).sum()
            # Where the gradient depends on no weight, H is zero.
            return self._gradients(slope) if slope.requires_grad else [None] * len(grads)

        return self._mean(product)

    def _gradients(self, of: Tensor, create_graph: bool = False) -> list[Tensor | None]:
        by = list(self.parameters.values())
        return list(torch.autograd.grad(of, by, create_graph=create_graph, allow_unused=True))

    def _mean(self, values_of: Callable[[Tensor], list[Tensor | None]]) -> dict[str, Tensor]:
        """Return the mean over all examples, and all processes, of what `values_of` a loss are."""
        sums = {
            name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for name, p in self.parameters.items()
        }
        count = 0
        for loss, size in self.batches():
            count += size
            for total, value in zip(sums.values(), values_of(loss), strict=True):
                if value is not None:
                    total.add_(value.detach(), alpha=size)
        count = sum_over_processes(sums.values(), count)
        return {name: total / count for name, total in sums.items()}

    def _of(self, number: int, x: Any, y: Any) -> tuple[Tensor, int]:
        out = called(self.model, [x], f"the x of batch {number}")
        loss = self.loss(out if self.temperature == 1 else out / self.temperature, y)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not bool(torch.isfinite(loss)):
            raise SparselthError(
                f"the loss of batch {number} must be a finite scalar, got {_told(loss)}"
            )
        if not loss.requires_grad:
            raise SparselthError(f"the loss of batch {number} does not depend on any weight")
        return loss.reshape(()), len(x) if isinstance(x, Tensor) and x.dim() else 1


def pairs(data: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches of `data`, each a pair.

    Raises SparselthError for one that is none.
    """
    for number, batch in enumerate(data):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise SparselthError(f"batch {number} of data must be a pair (x, y), got {kind(batch)}")
        yield batch[0], batch[1]


def _told(loss: object) -> str:
    if isinstance(loss, Tensor):
        return str(loss.item()) if loss.numel() == 1 else f"a tensor of shape {tuple(loss.shape)}"
    return kind(loss)
