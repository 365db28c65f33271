"""SGD in which pruned weights, their gradients and their momentum stay exactly zero."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from ..ops import functional
from ..ops.binding import mask_of

_Pairs = dict[int, tuple[Tensor, Tensor]]


class Penalty(Protocol):
    """ADMM's rho/2 |W - Z + U|^2, as an optimizer needs it."""

    rho: float

    def pairs(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return Z and U by the `id` of their parameter."""


@dataclass(frozen=True)
class _Member:
    """A parameter that the fused op updates, and what it is updated with."""

    parameter: Tensor
    grad: Tensor
    mask: Tensor | None
    pair: tuple[Tensor, Tensor] | None
    is_new: bool
    """Whether it has no momentum yet."""

    def kind(self) -> tuple[bool, ...]:
        """Say what distinguishes the calls that serve it: lists are full or empty."""
        return self.is_new, self.mask is None, self.pair is None


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` that updates only what the masks of `sparsify` keep.

    Same arguments (lr, momentum, dampening, weight_decay, nesterov, ...), same state dict, same
    learning-rate schedulers. Parameters without a mask are updated by PyTorch itself; those with
    one take the fused `masked_sgd_` op. The masked layers' gradients are zero off the mask already;
    whatever else is added to them there is ignored. Momentum left from before pruning is cut to the
    mask.

    admm: an `sparselth.ADMM`, whose penalty then acts inside the fused step: its gradient
    rho (W - Z + U) is added to the loss's, and `admm.penalty()` must not be added to the loss.

    lr is read as a number on every step; `maximize` and `differentiable` are PyTorch's and not
    available for masked parameters, nor with `admm`.
    """

    def __init__(self, *args: Any, admm: Penalty | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.admm = admm

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "admm": self.admm}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step. closure: as in torch.optim, re-evaluates the loss and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held: list[_Member] = []
        pairs = self.admm.pairs() if self.admm is not None else {}
        for group in self.param_groups:
            held += self._fused_step(group, pairs)
        try:
            super().step()
        finally:
            for member in held:
                member.parameter.grad = member.grad
        return loss

    def _members(self, group: dict[str, Any], pairs: _Pairs) -> list[_Member]:
        members = []
        for p in group["params"]:
            mask, pair = mask_of(p), pairs.get(id(p))
            if p.grad is not None and (mask is not None or pair is not None):
                is_new = self.state[p].get("momentum_buffer") is None
                members.append(_Member(p, p.grad, mask, pair, is_new))
        return members

    def _fused_step(self, group: dict[str, Any], pairs: _Pairs) -> list[_Member]:
        """Update masked and penalised parameters and hide their gradients from torch's step."""
        members = self._members(group, pairs)
        if members and (group["maximize"] or group["differentiable"]):
            raise ValueError(
                "maximize and differentiable are not available for masked parameters, nor with admm"
            )
        if group["momentum"] != 0:
            for member in members:
                if member.is_new:
                    buffer = torch.zeros_like(member.parameter)
                    self.state[member.parameter]["momentum_buffer"] = buffer
        for _, alike in groupby(sorted(members, key=_Member.kind), _Member.kind):
            self._run(group, list(alike))
        for member in members:
            member.parameter.grad = None
        return members

    def _run(self, group: dict[str, Any], members: list[_Member]) -> None:
        momentum = group["momentum"]
        pairs = [member.pair for member in members if member.pair is not None]
        functional.masked_sgd_(
            [member.parameter for member in members],
            [member.grad for member in members],
            [self.state[m.parameter]["momentum_buffer"] for m in members] if momentum != 0 else [],
            [member.mask for member in members if member.mask is not None],
            [z for z, _ in pairs],
            [u for _, u in pairs],
            lr=float(group["lr"]),
            momentum=momentum,
            # torch starts a momentum buffer as the plain gradient, undampened.
            dampening=0.0 if members[0].is_new else group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            rho=self.admm.rho if self.admm is not None and pairs else 0.0,
        )
