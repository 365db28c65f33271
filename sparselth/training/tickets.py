"""The two ways to a sparse network that the paper compares, each in one call.

Reference: Frankle & Carbin 2019, arXiv:1803.03635 (tickets); Frankle et al. 2020, arXiv:1912.05671
(rewinding); Han et al. 2015, arXiv:1506.02626 (pruning & fine-tuning); Liu et al. 2021,
arXiv:2102.11068, which compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Data
from ..errors import SparselthError
from ..nn import sparsify
from ..ops.patterns import Pattern
from ..pruning import check_search, find_masks
from ..pruning.allocation import Sparsity, up_to
from ..pruning.scores import SCORES, Score
from .callbacks import Callback
from .checkpoint import CheckpointFolder
from .checks import check_training
from .distributed import World
from .history import History
from .loop import train
from .recipe import Recipe
from .resume import plain_weights

Weights = dict[str, Tensor]


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
    it came trained.  history: of the training on the masks.
    """

    masks: Weights
    pretraining: History | None
    history: History


def find_ticket(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    sparsity: Sparsity,
    *,
    rounds: int = 1,
    rewind_to: int = 0,
    score: str | Score = "magnitude",
    allocation: str = "uniform",
    pattern: str | Pattern = "element",
    exclude: Collection[str] | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    callbacks: Sequence[Callback] = (),
    test: Any = None,
) -> Ticket:
    """Train, prune, and put the weights back: what is left is a lottery ticket, or is not.

    The model ends sparse, at the weights the ticket starts from; `train(model, data, recipe)` then
    trains it.

    model: dense; its weights are the initialization.  data: as in `train`.
    sparsity: share of the prunable weights to prune, a fraction in [0, 1).
    rounds: how often it is trained and pruned, each time by the same share of what is left; 1 is
    one-shot. `recipe` is that of every round.  rewind_to: the epoch of the first training whose
    weights the ticket starts from; 0 is the initialization.
    score, allocation, pattern, exclude: as in `find_masks`.
    checkpoint, device, callbacks, test: as in `train`; with a checkpoint folder a search that was
    stopped goes on, from the initialization it began with.

    Raises SparselthError as `train` and `find_masks` do, and for a `rewind_to` outside the recipe.

    Reference: Frankle & Carbin 2019, arXiv:1803.03635 (iterative pruning); Frankle et al. 2020,
    arXiv:1912.05671 (rewinding).
    """
    check_training(model, recipe, device=device, callbacks=callbacks, checkpoint=checkpoint)
    whole = isinstance(rounds, int) and isinstance(rewind_to, int)
    if not whole or rounds < 1 or not 0 <= rewind_to < recipe.epochs:
        raise SparselthError(
            f"a ticket takes rounds >= 1 and rewind_to in [0, {recipe.epochs}), the recipe's "
            f"epochs; got rounds={rounds} and rewind_to={rewind_to}"
        )
    _check_score(score)
    shares = [up_to(sparsity, (done + 1) / rounds) for done in range(rounds)]
    search: dict[str, Any] = {
        "score": score,
        "allocation": allocation,
        "pattern": pattern,
        "exclude": exclude,
    }
    check_search(model, sparsity=sparsity, **search)  # before hours of training
    for done, share in enumerate(shares):
        try:
            check_search(model, sparsity=share, **search)
        except SparselthError as error:
            raise SparselthError(
                f"of rounds={rounds}, round {done + 1} prunes {_shown(share)} on the way to "
                f"{sparsity}, which cannot be ({error}); take rounds=1"
            ) from error
    start = _Start(model, rewind_to, _below(checkpoint, "start"))
    histories, masks, trained = [], None, None
    for done in range(rounds):
        if masks is not None:
            model.load_state_dict(start.weights)
        history = train(
            model,
            data,
            recipe,
            masks=masks,
            checkpoint=_below(checkpoint, f"round-{done + 1}"),
            device=device,
            test=test,
            callbacks=[*callbacks, *([start] if masks is None else [])],
        )
        histories.append(history)
        trained = _copied(model) if trained is None else trained
        masks = find_masks(model, sparsity=shares[done], within=masks, **search)
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
    score: str | Score = "magnitude",
    allocation: str = "uniform",
    pattern: str | Pattern = "element",
    exclude: Collection[str] | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    callbacks: Sequence[Callback] = (),
    test: Any = None,
) -> FineTuned:
    """Train dense, prune once, and train what is left, from the weights it has.

    recipe: of the training on the mask.  pretrain: of the dense training before; None where the
    model comes trained.
    model, data, sparsity, score, allocation, pattern, exclude, checkpoint, device, callbacks, test:
    as in `find_ticket`.
    Returns the masks and both histories; the model ends sparse and trained.

    Raises SparselthError as `train` and `find_masks` do.

    Reference: Han et al. 2015, arXiv:1506.02626. With the whole schedule again, as Liu et al. 2021
    do, it is Renda et al. 2020's learning-rate rewinding to epoch 0, arXiv:2003.02389.
    """
    recipes = [recipe] if pretrain is None else [pretrain, recipe]
    check_training(model, *recipes, device=device, callbacks=callbacks, checkpoint=checkpoint)
    search: dict[str, Any] = {
        "score": score,
        "sparsity": sparsity,
        "allocation": allocation,
        "pattern": pattern,
        "exclude": exclude,
    }
    _check_score(score)
    check_search(model, **search)  # before hours of training
    options: dict[str, Any] = {"device": device, "callbacks": callbacks, "test": test}
    pretraining = None
    if pretrain is not None:
        folder = _below(checkpoint, "pretrain")
        pretraining = train(model, data, pretrain, checkpoint=folder, **options)
    masks = find_masks(model, **search)
    folder = _below(checkpoint, "finetune")
    history = train(model, data, recipe, masks=masks, checkpoint=folder, **options)
    return FineTuned(masks, pretraining, history)


def _check_score(score: str | Score) -> None:
    found = SCORES.get(score) if isinstance(score, str) else score
    if needed := getattr(found, "needs", ()):
        raise SparselthError(
            f"the score {score!r} needs {' and '.join(needed)} "
            "of its own: pass find_masks(model, score=..., data=..., loss=...) to "
            "train(masks=...)"
        )


class _Start(Callback):
    """The weights a ticket starts from: kept in the epoch they are of, in a folder if there is one,
    so that a search goes on from the initialization it began with.
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
            self.reached = at == epoch
        else:
            self.weights = _copied(model)
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
            self.folder.save(epoch, {"model": self.weights})


def _shown(sparsity: Sparsity) -> str:
    if not isinstance(sparsity, Mapping):
        return f"{sparsity:.6g}"
    return "{" + ", ".join(f"{name!r}: {share:.6g}" for name, share in sparsity.items()) + "}"


def _copied(model: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in plain_weights(model).items()}


def _below(folder: str | Path | None, name: str) -> Path | None:
    return None if folder is None else Path(folder) / name
