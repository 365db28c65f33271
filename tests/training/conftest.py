"""A training small enough to run many times: 64 digits, a two-layer network."""

import pytest
import torch
from torch import nn

from sparselth import data
from sparselth.training import Recipe


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(scope="session")
def digits():
    return data.load("mnist5k").limited(64, 32)


@pytest.fixture
def make_model():
    def make(seed=0, dropout=0.0):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(32, 10),
        )

    return make


@pytest.fixture
def recipe():
    return Recipe(epochs=4, learning_rate=0.1, batch_size=24)
