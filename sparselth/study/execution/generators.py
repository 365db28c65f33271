"""The mask generators: each finds a mask from the pre-trained network.

A generator's name may end in a control: "magnitude-shuffled", "imp-inverted". It takes the mask of
the generator before it and keeps, in every layer, the same number of weights at random places, or
those that are smallest in the pre-trained network: where every layer has the same sparsity, the
inverted masks of all generators are one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...data import ImageFolder, ImageSet
from ...pruning import ADMM, check_alive, find_masks, inverted_masks, shuffled_masks
from ...seeds import derive
from ...training import ADMMSchedule, EpochRecord, History, train
from ..plan.config import StudyConfig

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class MaskJob:
    """What a generator works from. `model` may be changed.

    model: holds theta_T, or for iterative pruning the end of the round before.
    """

    config: StudyConfig
    model: nn.Module
    data: ImageSet | ImageFolder
    seed: int
    sparsity: float
    exclude: tuple[str, ...]
    device: torch.device
    checkpoint: Path
    on_epoch_end: Callable[[EpochRecord], None] | None = None


@dataclass(frozen=True)
class FoundMasks:
    """The masks, what their search trained, and what it reports about itself."""

    masks: Weights
    history: History = field(default_factory=History)
    report: dict[str, float] = field(default_factory=dict)


def _cut(job: MaskJob, score: str = "magnitude") -> FoundMasks:
    masks = find_masks(
        job.model,
        score=score,
        sparsity=job.sparsity,
        allocation=job.config.allocation,
        exclude=job.exclude,
    )
    return FoundMasks(masks)


def magnitude(job: MaskJob) -> FoundMasks:
    """Prune the smallest weights of the pre-trained network at once.

    Reference: Han et al., 2015.
    """
    return _cut(job)


def imp(job: MaskJob) -> FoundMasks:
    """Prune the smallest weights that are left after the last of several rounds of training.

    The rounds are cells of their own, shared by all sparsities: see `rounds_to`.

    Reference: Frankle & Carbin 2019, arXiv:1803.03635.
    """
    return _cut(job)


def random(job: MaskJob) -> FoundMasks:
    """Prune any weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(job.seed, "random mask", job.sparsity))
        job.model.cpu()  # the same draw on every device
        return _cut(job, "random")


def admm(job: MaskJob) -> FoundMasks:
    """Train on from theta_T towards a sparse set, then prune what stayed small.

    These epochs come on top of those the protocols share. `relative_residual` is |W - Z| / |W| at
    the last projection, just before the cut where it ends the search: how much of the network is
    cut away.

    Reference: Zhang et al., 2018.
    """
    config = job.config
    method = ADMM(
        job.model,
        sparsity=job.sparsity,
        rho=config.admm_rho,
        rho_schedule=config.rho_schedule(),
        allocation=config.allocation,
        exclude=job.exclude,
    )
    schedule = ADMMSchedule(method, every=config.admm_update_every)
    history = train(
        job.model,
        job.data,
        config.admm_recipe(job.seed),
        regularizer=schedule,
        checkpoint=job.checkpoint,
        device=job.device,
        on_epoch_end=job.on_epoch_end,
    )
    return FoundMasks(method.masks(), history, {"relative_residual": schedule.residuals[-1]})


GENERATORS: dict[str, Callable[[MaskJob], FoundMasks]] = {
    "magnitude": magnitude,
    "imp": imp,
    "admm": admm,
    "random": random,
}


def controlled(control: str, result: FoundMasks, theta_T: Weights, seed: int) -> FoundMasks:
    """Turn masks into those of a control; counts per layer stay."""
    if control == "shuffled":
        masks = shuffled_masks(result.masks, derive(seed, "shuffled mask"))
    else:
        masks = inverted_masks(result.masks, theta_T)
    check_alive(masks)
    return FoundMasks(masks)
