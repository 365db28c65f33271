"""How to train: everything that decides the numbers besides the model, the masks and the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_whole
from ..errors import SparselthError, unknown_name
from ..ops.kernel_choice.decide import checked_mode
from ..settings import changed, read_yaml

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("fp32", "bf16", "fp16")
STEPS = ("eager", "compile", "graph")


@dataclass(frozen=True)
class Recipe:
    """SGD or AdamW with a step schedule; the paper's SGD by default.

    epochs: passes over the training data, >= 1.
    learning_rate: of the first epoch, > 0.
    batch_size: images that one update sees, on all processes together.
    momentum, nesterov: SGD's; momentum in [0, 1).
    weight_decay: SGD adds weight_decay w to the gradient; AdamW shrinks w by learning rate times
    weight_decay w. The paper states none; 1e-4 is that of its group's code.
    milestones: fractions of `epochs`, in (0, 1], after which the learning rate is multiplied by
    gamma, in (0, 1]. 80/150 and 120/150 are the paper's epochs 80 and 120 of 150, scaled to any
    length.
    augment: random crops, and mirroring where the data set allows it.
    seed: decides the order of the images, the crops, and whatever else is drawn while training;
    not the weights that training begins with.
    choice: how sparse and dense kernels are chosen between. "fixed" trains to the same numbers in
    every run, bit for bit, also when stopped and resumed; "measured" is faster and rounds as the
    measurements fall out, "graphed" with step="graph". See `sparselth.use_choice`.
    optimizer: "sgd" or "adamw", those of `sparselth.optim`.
    precision: what the forward computes in, by autocast: "fp32", "bf16" or "fp16", which scales the
    loss, and leaves out updates whose gradients overflow.
    step: how a step runs: "eager"; "compile", its forward and backward by `torch.compile`; "graph",
    the whole as one CUDA graph, for small networks that an eager GPU waits on.
    accumulate: parts that a batch is computed in, which takes less memory and differs in batch
    norm's statistics only.
    evaluate_every: epochs between evaluations; after the last there is always one.

    Raises SparselthError for a value that is of another kind or out of range, and for those that
    do not go together.

    Reference: Liu et al., 2021, appendix, training setup.
    """

    epochs: int = 150
    learning_rate: float = 0.1
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    milestones: tuple[float, ...] = (80 / 150, 120 / 150)
    gamma: float = 0.1
    augment: bool = True
    seed: int = 0
    choice: str = "fixed"
    optimizer: str = "sgd"
    precision: str = "fp32"
    step: str = "eager"
    accumulate: int = 1
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "evaluate_every", "seed"):
            if not isinstance(getattr(self, name), int) or isinstance(getattr(self, name), bool):
                raise SparselthError(
                    f"a recipe got {name}={getattr(self, name)!r}; it must be a whole number"
                )
        for name in ("learning_rate", "momentum", "weight_decay", "gamma"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value)):
                raise SparselthError(f"a recipe got {name}={value!r}; it must be a finite number")
        for name in ("nesterov", "augment"):
            if not isinstance(getattr(self, name), bool):
                raise SparselthError(
                    f"a recipe got {name}={getattr(self, name)!r}; it must be True or False"
                )
        for name in ("choice", *_NAMES):
            if not isinstance(getattr(self, name), str):
                raise SparselthError(f"a recipe got {name}={getattr(self, name)!r}; it is a name")
        checked_mode(self.choice)
        if not isinstance(self.milestones, (tuple, list)):
            raise SparselthError(
                f"a recipe got milestones={self.milestones!r}; they are a tuple of fractions"
            )
        for name, allowed in _NAMES.items():
            if getattr(self, name) not in allowed:
                raise unknown_name(name, getattr(self, name), allowed)
        for name in ("epochs", "batch_size", "accumulate", "evaluate_every"):
            if (count := getattr(self, name)) < 1:
                raise SparselthError(f"a recipe got {name}={count}; it must be at least 1")
        if self.accumulate > self.batch_size:
            raise SparselthError(
                f"a recipe got accumulate={self.accumulate} parts of a batch of {self.batch_size}; "
                "each part needs an image"
            )
        if self.step == "graph" and (self.precision == "fp16" or self.optimizer != "sgd"):
            raise SparselthError(
                f'a recipe got step="graph" with precision={self.precision!r} and '
                f"optimizer={self.optimizer!r}; a graph holds SGD in fp32 or bf16, as the others "
                "decide on the host in every step"
            )
        if self.learning_rate <= 0:
            raise SparselthError(
                f"a recipe got learning_rate={self.learning_rate}; it must be above 0"
            )
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise SparselthError(
                f"a recipe got momentum={self.momentum} and weight_decay={self.weight_decay}; "
                "momentum must be in [0, 1) and weight_decay at least 0"
            )
        if self.nesterov and self.momentum == 0:
            raise SparselthError(
                "a recipe got nesterov=True with momentum=0; Nesterov's step needs one above 0"
            )
        if not 0 < self.gamma <= 1:
            raise SparselthError(
                f"a recipe got gamma={self.gamma}; the learning rate is multiplied by it at each "
                "milestone, so it must be above 0 and at most 1"
            )
        numbers = [m for m in self.milestones if isinstance(m, (int, float))]
        if len(numbers) < len(self.milestones) or any(not 0 < m <= 1 for m in numbers):
            raise SparselthError(
                f"a recipe got milestones={self.milestones}; each is a fraction of the epochs, "
                "above 0 and at most 1"
            )

    @classmethod
    def from_yaml(cls, path: str | Path) -> Recipe:
        """Read a recipe from a YAML file; what it leaves out has its default.

        path: of the file, a mapping of field names to values.

        Raises `SparselthError` as `changed` does, or when the file cannot be read.
        """
        return cls().changed(read_yaml(path))

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """Return a copy with some fields set from text, numbers or lists, as flags and YAML give.

        values: field name -> value.

        Raises `SparselthError` for a field that does not exist, naming the nearest one, or a value
        of the wrong kind.
        """
        return changed(self, values, "a recipe")

    def to_dict(self) -> dict[str, Any]:
        """Convert to what JSON gives back: lists instead of tuples."""
        values = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def evaluates(self, epoch: int) -> bool:
        """Say whether the model is evaluated after `epoch`, counted from 0."""
        return (epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs

    def learning_rate_at(self, epoch: int) -> float:
        """Compute the learning rate of `epoch`, counted from 0; it is constant within one."""
        passed = sum(epoch >= round(milestone * self.epochs) for milestone in self.milestones)
        return self.learning_rate * self.gamma**passed

    def after(self, epoch: int) -> Recipe:
        """Return the recipe of what is left after an epoch: the schedule from there on.

        epoch: how many are done, in [0, epochs).

        Raises SparselthError where nothing is left.
        """
        epoch = check_whole("epoch", epoch, 0, self.epochs - 1)
        left = self.epochs - epoch
        ends = [round(milestone * self.epochs) for milestone in self.milestones]
        return dataclasses.replace(
            self,
            epochs=left,
            learning_rate=self.learning_rate_at(epoch),
            milestones=tuple((end - epoch) / left for end in ends if end > epoch),
        )


_NAMES = {"optimizer": OPTIMIZERS, "precision": PRECISIONS, "step": STEPS}
