"""A small network and some steps of its training, the same in every call."""

import torch
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(72, 3)
    )


def train(model, optimizer, steps=4, after=None):
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(5, 2, 7, 7, generator=generator)
        y = torch.randint(0, 3, (5,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if after:
            after()
