"""The mask generators: each finds a mask from the pre-trained network.

A generator's name may end in a control: "magnitude-shuffled", "snip-inverted". It keeps, in every
layer, as many weights as the generator before it: at random places, or those that it ranks lowest.
What ranks by magnitude in the end, "magnitude", "imp" and "admm", is inverted by that of the
pre-trained network.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...data import ImageFolder, ImageSet, batches_of
from ...nn import masks_of
from ...optim import ScaleL1
from ...pruning import (
    ADMM,
    SCORES,
    EarlyBird,
    EdgePopup,
    find_masks,
    inverted_masks,
    inverted_score,
    shuffled_masks,
)
from ...pruning.scores.context import declared
from ...seeds import derive
from ...training import ADMMSchedule, Callback, EpochRecord, History, train
from ..plan.config import StudyConfig
from ..plan.names import SCORED

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class MaskJob:
    """What a generator works from. `model` may be changed.

    model: holds theta_T; theta_0 for what ranks the initialization, and for iterative pruning the
    end of the round before.  initial: theta_0, for a score that may look at it.
    """

    config: StudyConfig
    model: nn.Module
    initial: Weights
    data: ImageSet | ImageFolder
    learning_rate: float
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


def scored(job: MaskJob, score: str, inverted: Weights | None = None) -> FoundMasks:
    """Prune by a score of `SCORES`, over a few batches of training images, as they are.

    inverted: masks of the score; as many weights of each layer stay, those that it ranks lowest.
    """
    config = job.config
    seed = derive(job.seed, "score")
    with closing(batches_of(job.data, config.batch_size, seed, False, job.device)) as source:
        batches = list(islice(source.train(0), config.score_batches))
    search: dict[str, Any] = {
        "score": score,
        "sparsity": job.sparsity,
        "allocation": config.allocation,
        "exclude": job.exclude,
        "data": batches,
        "loss": cross_entropy,
        "initial": job.initial,
    }
    if inverted is not None:
        shares = {name: 1 - float(m.double().mean()) for name, m in inverted.items()}
        search |= {"score": inverted_score(score), "sparsity": shares, "allocation": "uniform"}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(job.seed, "score", score))
        return FoundMasks(find_masks(job.model, **search))


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


class _Hatched(Exception):
    """Ends a training whose mask has stopped changing."""


class _Watch(Callback):
    """Draws a mask after each epoch and stops where it is an early bird's."""

    def __init__(self, job: MaskJob) -> None:
        self.job, self.bird = job, EarlyBird()
        self.masks: Weights = {}
        self.history = History()

    def epoch_end(self, model: nn.Module, history: History) -> None:
        self.history = history
        self.masks = _slimmed(self.job, model)
        if self.bird.update(self.masks):
            raise _Hatched


def _slimmed(job: MaskJob, model: nn.Module) -> Weights:
    with closing(batches_of(job.data, job.config.batch_size, 0, False, job.device)) as source:
        batches = list(islice(source.train(0), 1))
    return find_masks(
        model,
        score="bn-scale",
        sparsity=job.sparsity,
        allocation=job.config.allocation,
        exclude=job.exclude,
        data=batches,
    )


def early_bird(job: MaskJob) -> FoundMasks:
    """Train with slimming until the filters of largest scales stay the same, and keep those.

    `epochs` is how long that took, at most those of a training. A search that is stopped begins
    anew.

    Reference: You et al. 2020, arXiv:1909.11957.
    """
    config, watch = job.config, _Watch(job)
    with suppress(_Hatched):  # the rest of the training is what it saves
        train(
            job.model,
            job.data,
            config.recipe(job.learning_rate, job.seed, "early-bird"),
            regularizer=ScaleL1(job.model, SLIMMING, proximal=False),
            device=job.device,
            callbacks=[watch],
            on_epoch_end=job.on_epoch_end,
        )
    history = History(list(watch.history.records))
    return FoundMasks(watch.masks, history, {"epochs": float(len(history))})


SLIMMING = 1e-4
"""The strength of the penalty on batch norms' scales, the paper's."""


def edge_popup(job: MaskJob) -> FoundMasks:
    """Train scores of the weights of the initialization, and keep those of largest magnitude.

    `accuracy` is that of the subnetwork as drawn, without a weight trained.

    Reference: Ramanujan et al. 2020, arXiv:1911.13299.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(job.seed, "edge-popup", job.sparsity))
        popup = EdgePopup(job.model, job.sparsity, exclude=job.exclude)
    history = train(
        job.model,
        job.data,
        job.config.recipe(job.learning_rate, job.seed, "edge-popup"),
        pruning=popup,
        checkpoint=job.checkpoint,
        device=job.device,
        on_epoch_end=job.on_epoch_end,
    )
    accuracy = history.records[-1].test_accuracy
    return FoundMasks(masks_of(job.model), history, {"accuracy": accuracy})


GENERATORS: dict[str, Callable[[MaskJob], FoundMasks]] = {
    "magnitude": magnitude,
    "imp": imp,
    "admm": admm,
    "random": random,
    **{name: partial(scored, score=name) for name in SCORED},
    "early-bird": early_bird,
    "edge-popup": edge_popup,
}


def controlled(base: str, control: str, masks: Weights, job: MaskJob) -> FoundMasks:
    """Turn masks of a generator into those of a control; counts per layer stay."""
    if control == "shuffled":
        unit = declared(SCORES[base]).unit if base in SCORED else "weight"
        unit = "filter" if base == "early-bird" else unit
        return FoundMasks(shuffled_masks(masks, derive(job.seed, "shuffled mask"), unit=unit))
    if base in SCORED:
        return scored(job, base, inverted=masks)
    return FoundMasks(inverted_masks(masks, job.model.state_dict()))
