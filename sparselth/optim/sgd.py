"""SGD in which pruned weights, their gradients and their momentum stay exactly zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import steps
from .base import MaskedOptimizer, Member, number


class SGD(MaskedOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` that updates only what the masks of `sparsify` keep.

    Same arguments (lr, momentum, dampening, weight_decay, nesterov, ...), same state dict, same
    learning-rate schedulers. Parameters without a mask are updated by PyTorch itself; those with
    one take the fused `masked_sgd_` op. The masked layers' gradients are zero off the mask already;
    whatever else is added to them there is ignored. Momentum left from before pruning is cut to the
    mask.

    admm: an `sparselth.ADMM`, whose penalty then acts inside the fused step: its gradient
    rho (W - Z + U) is added to the loss's, and `admm.penalty()` must not be added to the loss.

    lr is read as a number on every step, and a tensor on a GPU is refused. With `maximize` or
    `differentiable` PyTorch's own step serves masked parameters too, on gradients and momentum cut
    to the masks; together with `admm` they raise SparselthError.

    Reference: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", in the form of `torch.optim.SGD`.
    """

    by_torch = ("maximize", "differentiable")

    def _state_key(self, group: dict[str, Any], parameter: Tensor) -> bool:
        """Say whether the momentum is new."""
        is_new = self.state[parameter].get("momentum_buffer") is None
        if is_new and group["momentum"] != 0:
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return is_new

    def _run(
        self,
        group: dict[str, Any],
        members: list[Member],
        lists: tuple[list[Tensor], ...],
        rho: float,
    ) -> None:
        momentum = group["momentum"]
        steps.masked_sgd_(
            [member.parameter for member in members],
            [member.grad for member in members],
            [self.state[m.parameter]["momentum_buffer"] for m in members] if momentum != 0 else [],
            *lists,
            lr=number("lr", group["lr"]),
            momentum=momentum,
            # torch starts a momentum buffer as the plain gradient, undampened.
            dampening=0.0 if members[0].state_key else group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            rho=rho,
        )
