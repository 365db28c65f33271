"""What a study is: every choice that decides its numbers, and how it is read from text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import data, models
from ..errors import SparselthError, unknown_name
from ..ops.checks import ALLOCATIONS
from ..ops.choice import MODES
from ..seeds import derive
from ..settings import changed
from ..training import Recipe
from .generators import GENERATORS
from .protocols import PROTOCOLS

# Where the files stand decides no number, so a folder may move between two starts.
_NOT_IDENTITY = {"data_root"}


@dataclass(frozen=True)
class StudyConfig:
    """A study: model x data x learning rate x mask generator x sparsity x protocol x seed.

    Every training takes `epochs` epochs with the same schedule, as in the paper; only the ADMM
    generator's search for a mask has its own length. `choice` is that of the `Recipe`: with
    "measured", a study that was stopped does not end with the same numbers. The defaults are
    the paper's settings, where it states them.

    Raises `SparselthError` for an unknown name, an empty list, or a number out of range.
    """

    model: str = "resnet20"
    width: float = 1.0
    data: str = "mnist5k"
    data_root: str = ""
    train_limit: int = 0
    test_limit: int = 0
    learning_rates: tuple[float, ...] = (0.01, 0.1)
    generators: tuple[str, ...] = ("magnitude", "admm")
    sparsities: tuple[float, ...] = (0.9, 0.95)
    protocols: tuple[str, ...] = ("ticket", "reinit", "finetune")
    seeds: tuple[int, ...] = (0,)
    allocation: str = "uniform"
    epochs: int = 150
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (80 / 150, 120 / 150)
    gamma: float = 0.1
    augment: bool = True
    choice: str = "fixed"
    admm_epochs: int = 60
    admm_update_every: int = 5
    admm_learning_rate: float = 0.01
    admm_rho: float = 1e-3
    admm_rho_growth: float = 1.3
    timing_steps: int = 10
    timing_rounds: int = 7

    def __post_init__(self) -> None:
        _check_names("model", (self.model,), models.REGISTRY)
        _check_names("data set", (self.data,), data.REGISTRY)
        _check_names("mask generator", self.generators, GENERATORS)
        _check_names("protocol", self.protocols, PROTOCOLS)
        _check_names("allocation", (self.allocation,), ALLOCATIONS)
        _check_names("choice", (self.choice,), MODES)
        for name in ("learning_rates", "generators", "sparsities", "protocols", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise SparselthError(
                    f"{name} is {list(values)}; give at least one value, and each only once"
                )
        if any(not 0 < sparsity < 1 for sparsity in self.sparsities):
            raise SparselthError(
                f"sparsities are {list(self.sparsities)}; each is the share of weights to prune, "
                "above 0 and below 1"
            )
        for name in ("admm_epochs", "admm_update_every", "timing_steps", "timing_rounds"):
            if getattr(self, name) < 1:
                raise SparselthError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.admm_update_every > self.admm_epochs:
            raise SparselthError(
                f"admm_update_every is {self.admm_update_every}, more than the {self.admm_epochs} "
                "admm_epochs, so ADMM would never project; lower the one or raise the other"
            )
        for learning_rate in self.learning_rates:
            self.recipe(learning_rate, seed=0)  # a recipe checks its own numbers
        self.admm_recipe(seed=0)

    def recipe(self, learning_rate: float, seed: int, stage: str = "train") -> Recipe:
        """Return how one network of the study is trained.

        `stage` is "pretrain" for the dense network and "train" for everything compared. The
        protocols share the order of the images, so that their difference is not one of luck;
        pre-training has another, so that fine-tuning does not see the same order twice.
        """
        return Recipe(
            epochs=self.epochs,
            learning_rate=learning_rate,
            batch_size=self.batch_size,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            milestones=self.milestones,
            gamma=self.gamma,
            augment=self.augment,
            choice=self.choice,
            seed=derive(seed, stage),
        )

    def admm_recipe(self, seed: int) -> Recipe:
        """Return how ADMM trains while it looks for a mask: at a constant learning rate."""
        return dataclasses.replace(
            self.recipe(self.admm_learning_rate, seed, "admm"),
            epochs=self.admm_epochs,
            milestones=(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to what JSON holds."""
        values = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def identity(self) -> dict[str, Any]:
        """Return what two starts of one study must have in common."""
        return {k: v for k, v in self.to_dict().items() if k not in _NOT_IDENTITY}

    def changed(self, values: Mapping[str, Any]) -> StudyConfig:
        """Return a copy with some fields set from text, numbers or lists, as flags and YAML give.

        Raises `SparselthError` for a field that does not exist, naming the nearest one, or a value
        of the wrong kind.
        """
        return changed(self, values, "a study")


def _check_names(kind: str, got: tuple[str, ...], known: Any) -> None:
    for name in got:
        if name not in known:
            raise unknown_name(kind, name, known)
