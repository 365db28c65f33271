"""What may act beside the recipe in every step: the protocols that `train` asks for."""

from __future__ import annotations

from typing import Any, Protocol

from ..optim.base import MaskedOptimizer


class Regularizer(Protocol):
    """What pulls the weights besides the loss, with a state of its own: see `ADMMSchedule`."""

    def attach(self, optimizer: MaskedOptimizer) -> None:
        """Begin: `optimizer` is the one that will train."""

    def end_epoch(self, epoch: int) -> None:
        """Follow `epoch`, counted from 1, before it is evaluated."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint is to hold: dicts, lists, tensors, numbers, texts and None."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`, what `state_dict` returned."""


class StepPruning(Protocol):
    """What changes masks between steps: `GradualPruning`, `DynamicSparsity`."""

    eager_only: bool
    """Whether it cannot look into a step of `torch.compile`."""

    def step(self) -> bool:
        """Follow a step of the optimizer; say whether masks changed."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint is to hold, besides the masks."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`, what `state_dict` returned."""
