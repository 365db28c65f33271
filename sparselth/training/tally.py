"""An epoch in progress: how far it is, and what was counted on the way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import SparselthError
from .distributed import World
from .history import EpochRecord


class EpochMetrics:
    """Losses and right answers of the steps taken, on the device until they are asked for.

    All are sums over images, and so add up over processes.
    steps: of the epoch, or 0 where nobody knows.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.step = 0
        self.seconds = 0.0
        self.losses = torch.zeros(steps, device=device)
        self.images = torch.zeros(steps, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Count one step of this process. loss: the mean over its images."""
        if self.step == len(self.losses):  # more than was said, where anything was
            more = self.losses.new_zeros(max(self.step, 64))
            self.losses, self.images = (torch.cat([t, more]) for t in (self.losses, self.images))
        self.losses[self.step] = loss * images
        self.images[self.step] = images
        self.correct += correct
        self.step += 1

    def pooled(self, world: World) -> dict[str, Tensor]:
        """Return the sums over all processes; each must call."""
        sums = {name: getattr(self, name).clone() for name in ("losses", "images", "correct")}
        world.sum_(*sums.values())
        return sums

    def check_finite(self, epoch: int, world: World) -> None:
        """Raise `SparselthError`, naming the step, when a loss was not finite in some process.

        Waits for a GPU.
        """
        losses = self.pooled(world)["losses"]
        for step, loss in enumerate(losses[: self.step].tolist()):
            if not math.isfinite(loss):
                raise SparselthError(
                    f"the loss became {loss} in epoch {epoch + 1}, step {step + 1}; lower the "
                    "learning rate, or look for NaN in the data (earlier checkpoints are kept)"
                )

    def record(self, epoch: int, learning_rate: float, world: World) -> EpochRecord:
        """Summarize the epoch, counted from 0, over all processes; its test is left open."""
        sums = self.pooled(world)
        images = sums["images"].sum()
        return EpochRecord(
            epoch=epoch + 1,
            learning_rate=learning_rate,
            train_loss=(sums["losses"].sum() / images).item(),
            train_accuracy=100.0 * sums["correct"].item() / images.item(),
            test_accuracy=math.nan,
            seconds=self.seconds,
        )

    def state_dict(self, world: World) -> dict[str, Any]:
        """Return what all processes counted together; each must call."""
        return {"step": self.step, "seconds": self.seconds, **self.pooled(world)}

    def load_state_dict(self, state: dict[str, Any], world: World) -> None:
        """Go on from it: the first process holds what was counted, the others nothing yet."""
        self.step, self.seconds = state["step"], state["seconds"]
        if world.rank == 0:
            for name in ("losses", "images", "correct"):
                getattr(self, name).copy_(state[name])
