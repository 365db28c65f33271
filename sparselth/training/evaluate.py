"""Measure accuracy on the test images."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..data import BatchSource
from .distributed import World


@torch.no_grad()
def evaluate(model: nn.Module, batches: BatchSource, world: World | None = None) -> float:
    """Return the test accuracy in percent, NaN without test data; the model's mode is left.

    world: the processes among which the batches are dealt, when there are several.
    """
    training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=batches.device)
    seen = torch.zeros((), dtype=torch.int64, device=batches.device)
    for x, labels in batches.test():
        correct += (model(x).argmax(1) == labels).sum()
        seen += len(labels)
    model.train(training)
    if world is not None:
        world.sum_(correct, seen)
    return 100.0 * correct.item() / seen.item() if seen.item() else math.nan
