"""Derivatives of the loss by the weights, over batches: what scores from data are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...checks import first_line, kind
from ...errors import SparselthError
from ..processes import sum_over_processes
from .batches import Batch, Loss, loss_of, pairs, size_of
from .running import run, without_pruned


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
        self.model = without_pruned(model, left)

    def batches(self, twice: bool = False) -> Iterator[tuple[Tensor, int]]:
        """Yield the loss of each batch, a scalar with its graph, and how many examples it has.

        twice: the graph can be differentiated twice.

        Raises SparselthError for a batch that is no pair, for none at all, and for a loss that is
        no finite scalar, or depends on no weight.
        """
        number = -1
        for number, (x, y) in enumerate(pairs(self.data)):
            yield self._of(number, x, y, twice)
        if number < 0:
            raise SparselthError("data holds no batch; this score wants at least one")

    def gradients(self) -> dict[str, Tensor]:
        """Return dL/dw, name -> tensor; zero where the loss does not depend on a weight.

        Those of 16-bit weights are summed, and returned, in float32.
        """
        return self._mean(self.batches(), self._gradients)

    def gradients_by_batch(self) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Yield the gradients of each batch's own loss, as `gradients`, and its examples."""
        for loss, size in self.batches():
            found = zip(self.parameters.items(), self._gradients(loss), strict=True)
            yield {n: torch.zeros_like(p) if g is None else g for (n, p), g in found}, size

    def hessian_product(self, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return H v, name -> tensor: the Hessian of the loss times a vector, held constant.

        Raises SparselthError for a model that cannot be differentiated twice.
        """

        def product(loss: Tensor) -> list[Tensor | None]:
            grads = self._gradients(loss, create_graph=True)
            both = zip(grads, self.parameters, strict=True)
            slope = torch.stack([(g * vector[n]).sum() for g, n in both if g is not None]).sum()
            # Where the gradient depends on no weight, H is zero.
            if not slope.requires_grad:
                return [None] * len(grads)
            try:
                return self._gradients(slope)
            except (RuntimeError, NotImplementedError) as error:
                if type(error) not in (RuntimeError, NotImplementedError):
                    raise
                raise SparselthError(
                    f"the model cannot be differentiated twice ({first_line(error)}); take a score "
                    'of first derivatives, such as "snip"'
                ) from error

        return self._mean(self.batches(twice=True), product)

    def _gradients(self, of: Tensor, create_graph: bool = False) -> list[Tensor | None]:
        by = list(self.parameters.values())
        return list(torch.autograd.grad(of, by, create_graph=create_graph, allow_unused=True))

    def _mean(
        self,
        batches: Iterable[tuple[Tensor, int]],
        values_of: Callable[[Tensor], list[Tensor | None]],
    ) -> dict[str, Tensor]:
        """Return the mean over all examples, and all processes, of what `values_of` a loss are."""
        sums = {
            name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for name, p in self.parameters.items()
        }
        count = 0
        for loss, size in batches:
            count += size
            for total, value in zip(sums.values(), values_of(loss), strict=True):
                if value is not None:
                    total.add_(value.detach(), alpha=size)
        count = sum_over_processes(sums.values(), count)
        return {name: total / count for name, total in sums.items()}

    def _of(self, number: int, x: Any, y: Any, twice: bool) -> tuple[Tensor, int]:
        with _twice_differentiable() if twice else nullcontext():
            out = run(self.model, x, number)
        loss = loss_of(self.loss, self._cooled(out), y, number)
        if not loss.requires_grad:
            raise SparselthError(f"the loss of batch {number} does not depend on any weight")
        return loss, size_of(x, y)

    def _cooled(self, out: Any) -> Any:
        if self.temperature == 1:
            return out
        if not isinstance(out, Tensor):
            raise SparselthError(
                f"the score divides the logits by {self.temperature:g}, and the model returns "
                f"{kind(out)}; wrap it in a module that returns the logits alone"
            )
        return out / self.temperature


def _twice_differentiable() -> AbstractContextManager[Any]:
    """Let attention go by ops that have second derivatives; fused ones have none."""
    return sdpa_kernel(SDPBackend.MATH)
