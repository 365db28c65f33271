"""How a model is pruned in rounds of training: the one implementation of iterative pruning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..checks import check_name, check_whole
from ..data import Data, batches_of
from ..errors import SparselthError
from ..ops.patterns import Pattern
from ..pruning import check_search, find_masks
from ..pruning.allocation import Sparsity
from ..pruning.probes import own_randomness
from ..pruning.schedules import Schedule, find_schedule, scheduled
from ..pruning.scores import SCORES, Score
from ..pruning.scores.context import declared
from .distributed import World
from .recipe import Recipe

Weights = dict[str, Tensor]

REPLAYS = ("full", "rest")


@dataclass(frozen=True)
class Rounds:
    """How a model is pruned in several rounds of training: how much in each, and by which recipe.

    Raises SparselthError for what is no number of rounds, no epoch of the recipe, or no schedule.
    """

    sparsity: Sparsity
    count: int
    schedule: str | Schedule
    rewind_to: int
    replay: str
    whole: Recipe

    def __post_init__(self) -> None:
        check_whole("rounds", self.count, 1)
        check_name("replay", self.replay, REPLAYS)
        find_schedule(self.schedule)
        if isinstance(self.whole, Recipe):
            check_whole("rewind_to", self.rewind_to, 0, self.whole.epochs - 1)

    def recipe(self, done: int) -> Recipe:
        """Return the recipe of the round after so many."""
        rest = done and self.replay == "rest"
        return self.whole.after(self.rewind_to) if rest else self.whole

    def share(self, done: int) -> Sparsity:
        """Return the sparsity that the round after so many others ends with."""
        part = (done + 1) / self.count
        return scheduled(find_schedule(self.schedule), part, 0.0, self.sparsity)

    def check(self, model: nn.Module, search: dict[str, Any]) -> None:
        """Check what `find_masks` will be asked for, before hours of training.

        Raises SparselthError as it would, naming the round.
        """
        search = search | {"initial": model.state_dict()}
        check_search(model, sparsity=self.sparsity, **search)
        for done in range(self.count):
            try:
                check_search(model, sparsity=self.share(done), **search)
            except SparselthError as error:
                raise SparselthError(
                    f"of rounds={self.count}, round {done + 1} prunes {_shown(self.share(done))} "
                    f"on the way to {self.sparsity}, which cannot be ({error}); take rounds=1"
                ) from error

    def prune(
        self,
        model: nn.Module,
        done: int,
        masks: Weights | None,
        search: dict[str, Any],
        initial: Weights,
    ) -> Weights:
        """Return the masks of the round after so many, among what those before leave."""
        return find_masks(model, sparsity=self.share(done), within=masks, initial=initial, **search)


# Batches of training data that a score sees where it looks at data.
SCORE_BATCHES = 4


def search_of(
    score: str | Score,
    allocation: str,
    pattern: str | Pattern | None,
    exclude: Collection[str] | None,
    data: Data,
    recipe: Recipe,
    device: torch.device,
) -> dict[str, Any]:
    """Return what `find_masks` is asked for; with some batches of the data where that wants any."""
    search: dict[str, Any] = {
        "score": score,
        "allocation": allocation,
        "pattern": pattern,
        "exclude": exclude,
    }
    found = SCORES.get(score) if isinstance(score, str) else score
    needed = declared(found).names if found is not None else ()
    if "data" in needed or "loss" in needed or pattern == "coupled":
        world = World.current()
        shard = (world.rank, world.size)
        few = batches_of(data, recipe.batch_size, recipe.seed, False, device, shard)
        # An iterable of batches seeds and moves torch's random state.
        with closing(few) as source, own_randomness():
            batches = list(islice(source.train(0), SCORE_BATCHES))
        search |= {"data": batches, "loss": cross_entropy}
    return search


def _shown(sparsity: Sparsity) -> str:
    if not isinstance(sparsity, Mapping):
        return f"{sparsity:.6g}"
    return "{" + ", ".join(f"{name!r}: {share:.6g}" for name, share in sparsity.items()) + "}"
