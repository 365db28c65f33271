"""The parts of a study, in order, and the weights they start from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import models
from ..data import ImageSet
from ..seeds import derive
from .config import StudyConfig
from .generators import TRAINED_EPOCHS


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    `protocol` is "dense" for pre-training and "search" for the epochs of a mask generator; those
    have no protocol of `PROTOCOLS`. Dense cells have no generator and sparsity 0.
    """

    learning_rate: float
    seed: int
    generator: str = ""
    sparsity: float = 0.0
    protocol: str = "dense"

    @property
    def folder(self) -> str:
        """Where its checkpoints stand, below the folder of all checkpoints."""
        branch = f"lr{self.learning_rate:g}/seed{self.seed}"
        if self.protocol == "dense":
            return f"{branch}/dense"
        return f"{branch}/{self.generator}-{self.sparsity:g}/{self.protocol}"

    @property
    def label(self) -> str:
        """What a person reads while it runs."""
        start = f"lr {self.learning_rate:g}, seed {self.seed}, "
        if self.protocol == "dense":
            return start + "dense pre-training"
        return start + f"{self.generator} {100 * self.sparsity:g} %, {self.protocol}"

    @property
    def kind(self) -> str:
        """Which cells take about as long an epoch as this one."""
        return "sparse" if self.protocol not in ("dense", "search") else self.protocol


def cells(config: StudyConfig) -> Iterator[tuple[Cell, int]]:
    """Yield every cell that trains, in the order it runs, with its number of epochs."""
    for seed in config.seeds:
        for learning_rate in config.learning_rates:
            yield Cell(learning_rate, seed), config.epochs
            for generator in config.generators:
                for sparsity in config.sparsities:
                    place = (learning_rate, seed, generator, sparsity)
                    if epochs := TRAINED_EPOCHS[generator](config):
                        yield Cell(*place, "search"), epochs
                    for protocol in config.protocols:
                        yield Cell(*place, protocol), config.epochs


def new_model(config: StudyConfig, data: ImageSet, seed: int, draw: str) -> nn.Module:
    """Build the study's network, freshly initialised for `seed` and `draw`.

    The caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, draw))
        return models.build(config.model, data.num_classes, data.channels, config.width)


def initial_weights(
    config: StudyConfig, data: ImageSet, seed: int, draw: str = "theta_0"
) -> dict[str, Tensor]:
    """Draw theta_0 (`draw="theta_0"`) or theta_0' (`"theta_0_prime"`) of a seed: a state dict."""
    return dict(new_model(config, data, seed, draw).state_dict())
