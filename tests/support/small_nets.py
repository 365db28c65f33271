"""Networks that are pruned in a moment."""

from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 5)
    )
