"""SGD in which pruned weights, their gradients and their momentum stay exactly zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import functional
from ..ops.binding import mask_of


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` that updates only what the masks of `sparsify` keep.

    Same arguments (lr, momentum, dampening, weight_decay, nesterov, ...), same state dict, same
    learning-rate schedulers. Parameters without a mask are updated by PyTorch itself; those with
    one take the fused `masked_sgd_` op. The masked layers' gradients are zero off the mask already;
    whatever else is added to them there is ignored. Momentum left from before pruning is cut to the
    mask.

    lr is read as a number on every step; `maximize` and `differentiable` are PyTorch's and not
    available for masked parameters.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step. closure: as in torch.optim, re-evaluates the loss and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            held += self._masked_step(group)
        try:
            super().step()
        finally:
            for parameter, grad in held:
                parameter.grad = grad
        return loss

    def _masked_step(self, group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Update the group's masked parameters and hide their gradients from torch's step."""
        members = [
            (p, p.grad, mask)
            for p in group["params"]
            if p.grad is not None and (mask := mask_of(p)) is not None
        ]
        if not members:
            return []
        if group["maximize"] or group["differentiable"]:
            raise ValueError("maximize and differentiable are not available for masked parameters")
        fresh = [m for m in members if self.state[m[0]].get("momentum_buffer") is None]
        known = [m for m in members if self.state[m[0]].get("momentum_buffer") is not None]
        if group["momentum"] != 0:
            for parameter, _, _ in fresh:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        # torch starts a momentum buffer as the plain gradient, undampened.
        for batch, dampening in ((known, group["dampening"]), (fresh, 0.0)):
            self._run(group, batch, dampening)
        for parameter, _, _ in members:
            parameter.grad = None
        return [(parameter, grad) for parameter, grad, _ in members]

    def _run(self, group: dict[str, Any], batch: list[Any], dampening: float) -> None:
        momentum = group["momentum"]
        functional.masked_sgd_(
            [parameter for parameter, _, _ in batch],
            [grad for _, grad, _ in batch],
            [self.state[p]["momentum_buffer"] for p, _, _ in batch] if momentum != 0 else [],
            [mask for _, _, mask in batch],
            lr=float(group["lr"]),
            momentum=momentum,
            dampening=dampening,
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
        )
