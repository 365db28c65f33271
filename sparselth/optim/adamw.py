"""AdamW in which pruned weights, their gradients and their moments stay exactly zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import steps
from .base import MaskedOptimizer, Member, number


class AdamW(MaskedOptimizer, torch.optim.AdamW):
    """`torch.optim.AdamW` that updates only what the masks of `sparsify` keep.

    Same arguments (lr, betas, eps, weight_decay, ...), same state dict (step, exp_avg, exp_avg_sq),
    same learning-rate schedulers. Parameters without a mask are updated by PyTorch itself, by its
    `foreach` or `fused` step where asked; those with one take the fused `masked_adamw_` op. The
    masked layers' gradients are zero off the mask already; whatever else is added to them there is
    ignored. Moments left from before pruning are cut to the mask.

    admm: an `sparselth.ADMM`, whose penalty then acts inside the fused step: its gradient
    rho (W - Z + U) is added to the loss's, goes through the moments as it would from there, and
    `admm.penalty()` must not be added to the loss.

    The step count lies where PyTorch keeps it: on the CPU, or with `capturable` or `fused` on the
    parameters' device, where the kernel reads it, so that nothing waits for a GPU and a CUDA graph
    may hold the step. lr and betas are read as numbers on every step, and tensors on a GPU are
    refused. With `amsgrad`, `maximize` or `differentiable` PyTorch's own step serves masked
    parameters too, on gradients and moments cut to the masks; with `admm` they raise
    SparselthError.

    Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """

    by_torch = ("amsgrad", "maximize", "differentiable")

    def _state_key(self, group: dict[str, Any], parameter: Tensor) -> int | None:
        """Return how many steps there were, or None where only the device knows."""
        state = self.state[parameter]
        if not state:
            on_device = group["capturable"] or group["fused"]
            # Of torch's dtypes, for a state dict like its own.
            wide = torch.get_default_dtype() == torch.float64 and not group["fused"]
            state["step"] = torch.zeros(
                (),
                dtype=torch.float64 if wide else torch.float32,
                device=parameter.device if on_device else "cpu",
            )
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(parameter)
        count = state["step"]
        return int(count) if count.device.type == "cpu" else None

    def _run(
        self,
        group: dict[str, Any],
        members: list[Member],
        lists: tuple[list[Tensor], ...],
        rho: float,
    ) -> None:
        states = [self.state[member.parameter] for member in members]
        counts = [state["step"] for state in states]
        torch._foreach_add_(counts, 1)
        done = members[0].state_key
        beta1, beta2 = group["betas"]
        steps.masked_adamw_(
            [member.parameter for member in members],
            [member.grad for member in members],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            *lists,
            step=done + 1 if isinstance(done, int) else [count.float() for count in counts],
            lr=number("lr", group["lr"]),
            betas=(number("beta1", beta1), number("beta2", beta2)),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            rho=rho,
        )
