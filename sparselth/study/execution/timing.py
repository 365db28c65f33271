"""How long an epoch of sparse training takes, against the same training done densely.

All contestants start from the same weights, see the same batches and take the same steps. They take
turns, round by round, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from ...data import ImageFolder, ImageSet, batches_of
from ...nn import densify, sparsify
from ...ops import use_choice
from ...training.loop import optimizer_for
from ...training.step import TrainingStep
from ..plan.cells import Cell
from ..plan.config import StudyConfig
from .compute import Work

# A CUDA graph is captured in the fourth step.
WARM_UP_STEPS = 5
Batch = tuple[Tensor, Tensor]


class _Dense:
    """Plain dense training, from the same weights in every round."""

    def __init__(self, config: StudyConfig, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).train()
        device = next(model.parameters()).device
        if device.type == "cuda":  # as training does
            self.model.to(memory_format=torch.channels_last)
        self.start = copy.deepcopy(self.model.state_dict())
        recipe = config.recipe(config.learning_rates[0], seed=0)
        self.optimizer = optimizer_for(self.model, recipe)
        self.step = TrainingStep(self.model, self.optimizer, recipe, device)
        self.seconds: list[float] = []

    def round(self, batches: list[Batch]) -> float:
        """Take a step on each batch and return the seconds per step."""
        # In place: a graph knows the tensors by their address.
        self.model.load_state_dict(self.start)
        for state in self.optimizer.state.values():
            for value in filter(torch.is_tensor, state.values()):
                value.zero_()
        _synchronize(batches[0][0].device)
        begin = time.perf_counter()
        for x, labels in batches:
            self.step(x, labels, len(x))
            self.after_step()
        _synchronize(batches[0][0].device)
        return (time.perf_counter() - begin) / len(batches)

    def after_step(self) -> None:
        """Do nothing more."""


class _Sparse(_Dense):
    """The same with `sparsify`."""

    def __init__(self, config: StudyConfig, model: nn.Module, masks: dict[str, Tensor]) -> None:
        super().__init__(config, sparsify(copy.deepcopy(model), masks))


class _DenseMasked(_Dense):
    """The same training without sparselth: dense, the masks multiplied in after every step."""

    def __init__(self, config: StudyConfig, model: nn.Module, masks: dict[str, Tensor]) -> None:
        super().__init__(config, densify(sparsify(copy.deepcopy(model), masks)))
        self.weights = [self.model.get_parameter(name) for name in masks]
        self.factors = [masks[name].to(self.model.get_parameter(name).dtype) for name in masks]

    @torch.no_grad()
    def after_step(self) -> None:
        torch._foreach_mul_(self.weights, self.factors)  # type: ignore[arg-type]


def measure(
    config: StudyConfig,
    model: nn.Module,
    masks: dict[str, Tensor],
    data: ImageSet | ImageFolder,
    sparsity: float,
) -> dict[str, Any]:
    """Time the training of `model` on `masks`, sparse and dense, and return one row.

    `dense_masked` is the same training done densely in plain PyTorch, the masks multiplied in after
    every step, all layers in one call; `dense` trains every weight, without masks. Seconds per
    epoch are steps per epoch times the median over `timing_rounds` rounds of `timing_steps` steps;
    `_min` is the fastest round.
    """
    device = next(model.parameters()).device
    # Full batches only, the first ones of an epoch; around again where an epoch is too short.
    with closing(batches_of(data, config.batch_size, 0, config.augment, device)) as source:
        first = list(itertools.islice(source.train(0), config.timing_steps))
    full = [batch for batch in first if len(batch[1]) == config.batch_size] or first
    batches = [full[step % len(full)] for step in range(config.timing_steps)]
    contestants = {
        "sparse": _Sparse(config, model, masks),
        "dense_masked": _DenseMasked(config, model, masks),
        "dense": _Dense(config, model),
    }
    for contestant in contestants.values():
        contestant.round([batches[i % len(batches)] for i in range(WARM_UP_STEPS)])
    for _ in range(config.timing_rounds):
        for contestant in contestants.values():
            contestant.seconds.append(contestant.round(batches))
    medians = {n: statistics.median(c.seconds) * source.steps for n, c in contestants.items()}
    fastest = {n: min(c.seconds) * source.steps for n, c in contestants.items()}
    row: dict[str, Any] = {"sparsity": sparsity, "steps_per_epoch": source.steps}
    row |= {f"{name}_seconds": seconds for name, seconds in medians.items()}
    row |= {f"{name}_seconds_min": seconds for name, seconds in fastest.items()}
    row["speedup_over_dense_masked"] = medians["dense_masked"] / medians["sparse"]
    row["speedup_over_dense"] = medians["dense"] / medians["sparse"]
    return row


def time_training(work: Work, cell: Cell) -> dict[str, Any]:
    """Time training on the masks of a cell, from the pre-trained weights, and return one row."""
    config = work.config
    model = work.model(cell)
    model.load_state_dict(work.trained(cell.dense()))
    masks = {name: mask.to(work.device) for name, mask in work.masks(cell).items()}
    with use_choice(config.choice):  # what training did
        row = measure(config, model, masks, work.data(cell.data), cell.sparsity)
    return {"model": cell.model, "data": cell.data, **row}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
