"""Measure accuracy on the test images."""

from __future__ import annotations

import torch
from torch import nn

from ..data import BatchSource


@torch.no_grad()
def evaluate(model: nn.Module, batches: BatchSource) -> float:
    """Return the test accuracy in percent; the model is left in the mode it was in."""
    training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=batches.device)
    for x, labels in batches.test():
        correct += (model(x).argmax(1) == labels).sum()
    model.train(training)
    return 100.0 * correct.item() / batches.test_count
