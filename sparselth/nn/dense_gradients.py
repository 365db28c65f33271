"""Gradients by pruned weights too, for methods that wake some of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_model
from ..errors import SparselthError
from ..ops import reference
from .kinds import masked_modules
from .state import MaskState


class DenseGradients:
    """The gradients of the loss by all weights of masked layers, kept or pruned.

    model: made sparse by `sparsify`. Between `start` and `stop` its masked layers compute densely,
    on kept weights alone as ever; parameters get the gradients they always get, and what
    the backwards add up to by every weight is kept beside them. Not within torch.compile.

    Raises SparselthError where there is no mask, or start and stop do not alternate.
    """

    def __init__(self, model: nn.Module) -> None:
        check_model(model)
        self.states: dict[str, MaskState] = {}
        for path, module in masked_modules(model):
            for local, state in module._states.items():
                if state not in self.states.values():
                    self.states[f"{path}.{local}" if path else local] = state
        if not self.states:
            raise SparselthError("the model has no mask; call sparselth.sparsify first")
        self.is_on = False

    def start(self) -> None:
        """Collect from the next forward on.

        Raises SparselthError where it does already.
        """
        if self.is_on:
            raise SparselthError("gradients are collected already; stop that first")
        self.is_on = True
        for state in self.states.values():
            state.collector = Collector()

    def stop(self) -> dict[str, Tensor]:
        """Return what was collected: parameter name -> tensor of its shape; zero for none.

        Raises SparselthError where nothing was started.
        """
        if not self.is_on:
            raise SparselthError("no gradients are being collected; start that first")
        self.is_on = False
        found = {}
        for name, state in self.states.items():
            assert state.collector is not None
            total, state.collector = state.collector.total, None
            found[name] = torch.zeros_like(state.parameter) if total is None else total
        return {name: total.detach() for name, total in found.items()}


class Collector:
    """The sum of a weight's dense gradients; None before the first."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Return the masked weight, differentiably, collecting its gradient."""
        return _Collect.apply(weight, mask, self)


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, collector: Collector) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.collector = collector
        return reference.apply_mask(weight, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        before = ctx.collector.total
        ctx.collector.total = grad if before is None else before + grad
        return reference.apply_mask(grad, mask), None, None
