"""Data and a network as users bring them, small enough to train many times."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparselth as sl

RNG = torch.Generator().manual_seed(0)
X, Y = torch.randn(50, 6, generator=RNG), torch.randint(0, 3, (50,), generator=RNG)
RECIPE = sl.Recipe(epochs=3, learning_rate=0.05, batch_size=16)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3))


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=16, **options)


class Unsized:
    def __iter__(self):
        yield from loader()


class Wrapped(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = net(), kind

    def forward(self, x):
        return self.kind(self.net(x))
