"""An epoch in progress: how far it is, and what was counted on the way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import SparselthError
from .distributed import World
from .history import EpochRecord


class Tally:
    """Losses and right answers of the steps taken, on the device until they are asked for."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.step = 0
        self.seconds = 0.0
        self.losses = torch.zeros(steps, device=device)
        self.images = torch.zeros(steps, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Count one step of this process."""
        self.losses[self.step] = loss
        self.images[self.step] = images
        self.correct += correct
        self.step += 1

    def check_finite(self, epoch: int, world: World) -> None:
        """Raise `SparselthError`, naming the step, when a loss was not finite in some process.

        Waits for a GPU.
        """
        losses = self.losses.clone()
        world.sum_(losses)
        for step, loss in enumerate(losses[: self.step].tolist()):
            if not math.isfinite(loss):
                raise SparselthError(
                    f"the loss became {loss} in epoch {epoch + 1}, step {step + 1}; lower the "
                    "learning rate, or look for NaN in the data (earlier checkpoints are kept)"
                )

    def record(self, epoch: int, learning_rate: float, world: World) -> EpochRecord:
        """Summarise the epoch, counted from 0, over all processes; its test is left open."""
        weighted, images = (self.losses * self.images).sum(), self.images.sum()
        correct = self.correct.clone()
        world.sum_(weighted, images, correct)
        return EpochRecord(
            epoch=epoch + 1,
            learning_rate=learning_rate,
            train_loss=(weighted / images).item(),
            train_accuracy=100.0 * correct.item() / images.item(),
            test_accuracy=math.nan,
            seconds=self.seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            old = getattr(self, name)
            setattr(self, name, value.to(old.device) if isinstance(old, Tensor) else value)
