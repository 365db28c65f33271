"""The mask generators: each finds a mask from the pre-trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..data import ImageSet
from ..pruning import ADMM, find_masks, rho
from ..training import AdmmSchedule, EpochRecord, History, train

if TYPE_CHECKING:
    from .config import StudyConfig


@dataclass(frozen=True)
class MaskJob:
    """What a generator works from. `model` holds theta_T and may be changed."""

    config: StudyConfig
    model: nn.Module
    data: ImageSet
    seed: int
    sparsity: float
    checkpoint: Path
    on_epoch_end: Callable[[EpochRecord], None]


@dataclass(frozen=True)
class FoundMasks:
    """The masks, what their search trained, and what it reports about itself."""

    masks: dict[str, Tensor]
    history: History = field(default_factory=History)
    report: dict[str, float] = field(default_factory=dict)


def magnitude(job: MaskJob) -> FoundMasks:
    """Prune the smallest weights of the pre-trained network at once.

    Reference: Han et al., 2015.
    """
    masks = find_masks(
        job.model, score="magnitude", sparsity=job.sparsity, allocation=job.config.allocation
    )
    return FoundMasks(masks)


def admm(job: MaskJob) -> FoundMasks:
    """Train on from theta_T towards a sparse set, then prune what stayed small.

    These epochs come on top of those the protocols share. `relative_residual` is |W - Z| / |W|
    just before the cut: how much of the network the cut removes.

    Reference: Zhang et al., 2018.
    """
    config = job.config
    method = ADMM(
        job.model,
        sparsity=job.sparsity,
        rho=config.admm_rho,
        rho_schedule=rho.growing(config.admm_rho_growth),
        allocation=config.allocation,
    )
    schedule = AdmmSchedule(method, every=config.admm_update_every)
    history = train(
        job.model,
        job.data,
        config.admm_recipe(job.seed),
        regulariser=schedule,
        checkpoint=job.checkpoint,
        on_epoch_end=job.on_epoch_end,
    )
    return FoundMasks(method.masks(), history, {"relative_residual": schedule.residuals[-1]})


GENERATORS: dict[str, Callable[[MaskJob], FoundMasks]] = {"magnitude": magnitude, "admm": admm}

# Epochs that a generator trains, for the progress display.
TRAINED_EPOCHS: dict[str, Callable[[StudyConfig], int]] = {
    "magnitude": lambda config: 0,
    "admm": lambda config: config.admm_epochs,
}
