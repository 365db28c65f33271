"""The two ways to a sparse network that the paper compares, each in one call.

Reference: Frankle & Carbin 2019, arXiv:1803.03635 (tickets); Frankle et al. 2020, arXiv:1912.05671
(rewinding); Han et al. 2015, arXiv:1506.02626 (pruning & fine-tuning); Liu et al. 2021,
arXiv:2102.11068, which compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import Data
from ..nn import sparsify
from ..ops.patterns import Pattern
from ..pruning.allocation import Sparsity
from ..pruning.schedules import Schedule
from ..pruning.scores import Score
from .callbacks import Callback
from .checkpoint import CheckpointFolder
from .checks import check_training
from .distributed import World
from .history import History
from .loop import train
from .recipe import Recipe
from .resume import plain_weights
from .rounds import Rounds, Weights, search_of


@dataclass(frozen=True)
class Ticket:
    """A mask, and the weights it is to be trained from.

    masks: parameter name -> bool tensor, True keeps.
    start: the state dict of the dense network, initial or rewound.  trained: that of the dense
    network after its training.  histories: of each round.
    """

    masks: Weights
    start: Weights
    trained: Weights
    histories: list[History]


@dataclass(frozen=True)
class FineTuned:
    """A mask, and how the networks before and after it were trained.

    masks: parameter name -> bool tensor, True keeps.  pretraining: of the dense network; None where
    it came trained.  history: of the training on the masks.  histories: of each round's training,
    of which that is the last.
    """

    masks: Weights
    pretraining: History | None
    history: History
    histories: list[History]


def find_ticket(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    sparsity: Sparsity,
    *,
    rounds: int = 1,
    rewind_to: int = 0,
    replay: str = "full",
    schedule: str | Schedule = "exponential",
    score: str | Score = "magnitude",
    allocation: str = "uniform",
    pattern: str | Pattern | None = None,
    exclude: Collection[str] | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    callbacks: Sequence[Callback] = (),
    test: Any = None,
) -> Ticket:
    """Train, prune, and put the weights back: what is left is a lottery ticket, or is not.

    The model ends sparse, at the weights the ticket starts from; `train(model, data, recipe)` then
    trains it, or `train(model, data, recipe.after(rewind_to))`.

    model: dense; its weights are the initialization.  data: as in `train`.
    sparsity: share of the prunable weights to prune, a fraction in [0, 1).
    rounds: how often it is trained and pruned; 1 is one-shot.  schedule: what share is pruned after
    which round, as in `find_masks`; "exponential" prunes the same share of what is left in each.
    rewind_to: the epoch of the first training whose weights the ticket starts from; 0 is the
    initialization.  replay: what each later round trains by: "full", `recipe` again, or "rest",
    what of it follows `rewind_to`.
    score, allocation, pattern, exclude: as in `find_masks`. A score that looks at the weights
    before training sees the initialization, and one that sees data four batches of the first
    epoch's, not augmented, with cross entropy.
    checkpoint, device, callbacks, test: as in `train`; with a checkpoint folder a search that was
    stopped goes on, from the initialization it began with.

    Raises SparselthError as `train` and `find_masks` do, and for a `rewind_to` outside the recipe.

    Reference: Frankle & Carbin 2019, arXiv:1803.03635 (iterative pruning); Frankle et al. 2020,
    arXiv:1912.05671 (rewinding, which replays the rest); Liu et al. 2021, arXiv:2102.11068,
    appendix G (the whole schedule in each round).
    """
    rounds_of = Rounds(sparsity, rounds, schedule, rewind_to, replay, recipe)
    where = check_training(model, recipe, device=device, callbacks=callbacks, checkpoint=checkpoint)
    search = search_of(score, allocation, pattern, exclude, data, recipe, where)
    rounds_of.check(model.to(where), search)
    start = _Start(model, rewind_to, _below(checkpoint, "start"))
    masks: Weights | None = None
    trained: Weights | None = None
    histories = []
    for done in range(rounds_of.count):
        if masks is not None:
            model.load_state_dict(start.weights)
        history = train(
            model,
            data,
            rounds_of.recipe(done),
            masks=masks,
            checkpoint=_below(checkpoint, f"round-{done + 1}"),
            device=device,
            test=test,
            callbacks=[*callbacks, *([start] if masks is None else [])],
        )
        histories.append(history)
        trained = _copied(model) if trained is None else trained
        masks = rounds_of.prune(model, done, masks, search, start.initial)
    assert masks is not None
    assert trained is not None
    model.load_state_dict(start.weights)
    sparsify(model, masks)
    return Ticket(masks, start.weights, trained, histories)


def prune_and_finetune(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    sparsity: Sparsity,
    *,
    pretrain: Recipe | None = None,
    rounds: int = 1,
    schedule: str | Schedule = "exponential",
    score: str | Score = "magnitude",
    allocation: str = "uniform",
    pattern: str | Pattern | None = None,
    exclude: Collection[str] | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    callbacks: Sequence[Callback] = (),
    test: Any = None,
) -> FineTuned:
    """Train dense, prune, and train what is left, from the weights it has.

    recipe: of the training on each mask; of what remains of a longer one after an epoch,
    `recipe.after(epoch)`, it is learning-rate rewinding to that.  pretrain: of the dense training
    before; None where the model comes trained.
    rounds: how often it is pruned and trained; 1 is one-shot.  schedule: what share is pruned
    before which round, as in `find_masks`.
    model, data, sparsity, score, allocation, pattern, exclude, checkpoint, device, callbacks, test:
    as in `find_ticket`. A score that looks at the weights before training sees those the model
    came with.
    Returns the last masks and all histories; the model ends sparse and trained.

    Raises SparselthError as `train` and `find_masks` do.

    Reference: Han et al. 2015, arXiv:1506.02626 (in rounds, weights never put back). With the whole
    schedule again, as Liu et al. 2021 do, it is Renda et al. 2020's learning-rate rewinding to
    epoch 0, arXiv:2003.02389.
    """
    rounds_of = Rounds(sparsity, rounds, schedule, 0, "full", recipe)
    recipes = [recipe] if pretrain is None else [pretrain, recipe]
    where = check_training(
        model, *recipes, device=device, callbacks=callbacks, checkpoint=checkpoint
    )
    search = search_of(score, allocation, pattern, exclude, data, recipe, where)
    rounds_of.check(model.to(where), search)
    options: dict[str, Any] = {"device": device, "callbacks": callbacks, "test": test}
    initial, pretraining = _copied(model), None
    if pretrain is not None:
        folder = _below(checkpoint, "pretrain")
        pretraining = train(model, data, pretrain, checkpoint=folder, **options)
    masks: Weights | None = None
    histories = []
    for done in range(rounds_of.count):
        masks = rounds_of.prune(model, done, masks, search, initial)
        name = "finetune" if rounds_of.count == 1 else f"finetune-{done + 1}"
        folder = _below(checkpoint, name)
        histories.append(train(model, data, recipe, masks=masks, checkpoint=folder, **options))
    assert masks is not None
    return FineTuned(masks, pretraining, histories[-1], histories)


class _Start(Callback):
    """The weights a ticket starts from, and the initial ones: kept in the epoch they are of, in a
    folder if there is one, so that a search goes on from the initialization it began with.
    """

    everywhere = True

    def __init__(self, model: nn.Module, epoch: int, folder: Path | None) -> None:
        self.epoch = epoch
        self.folder = CheckpointFolder(folder) if folder is not None else None
        self.world = World.current()
        saved = self.folder.load() if self.folder else None
        if saved is not None:
            at, state = saved
            model.load_state_dict(state["model"])
            self.weights: Weights = _copied(model)
            self.initial = state.get("initial", self.weights)
            self.reached = at == epoch
        else:
            self.initial = self.weights = _copied(model)
            self.reached = epoch == 0
            self._save(0)

    def train_begin(self, model: nn.Module, recipe: Recipe, history: History) -> None:
        # A kill may have come between this epoch's checkpoint and what follows it.
        self.epoch_end(model, history)

    def epoch_end(self, model: nn.Module, history: History) -> None:
        if len(history) == self.epoch and not self.reached:
            self.weights, self.reached = _copied(model), True
            self._save(self.epoch)

    def _save(self, epoch: int) -> None:
        if self.folder and self.world.writes:
            self.folder.save(epoch, {"model": self.weights, "initial": self.initial})


def _copied(model: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in plain_weights(model).items()}


def _below(folder: str | Path | None, name: str) -> Path | None:
    return None if folder is None else Path(folder) / name
