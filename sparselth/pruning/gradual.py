"""Pruning step by step within a training loop."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..checks import check_whole
from ..errors import SparselthError
from ..nn import masks_of, move_masks, sparsify
from ..ops.checks import check_sparsity
from ..ops.patterns import NOfM, Pattern
from .allocation import Sparsity
from .masks import check_search, find_masks
from .schedules import Schedule, find_schedule, scheduled
from .scores import Score
from .scores.batches import Batch, Loss, listed
from .step_count import CountsSteps


class GradualPruning(CountsSteps):
    """Prunes a model while it trains: `step()` after each step of the optimizer.

    The model is made sparse at once, with the masks of the first sparsity, none pruned by default;
    nothing that is pruned comes back.

    model: plain or sparse already.  sparsity: that is reached, as in `find_masks`.
    schedule: how it is reached, one of `SCHEDULES` or a function (part, first, last) -> sparsity.
    begin, end: the steps between which it prunes, counted from 0; at `end` the sparsity is reached.
    every: so many steps lie between two times it prunes.  first: the sparsity it begins with.
    score, allocation, pattern, exclude, include, data, loss, initial: as in `find_masks`, which is
    called each time; `data` is read each time, too.

    Raises SparselthError as `find_masks` would, for steps that are none, and for a schedule that
    prunes nothing.

    Reference: Zhu & Gupta 2017, arXiv:1710.01878 ("cubic", magnitude).
    """

    eager_only = False

    def __init__(
        self,
        model: nn.Module,
        sparsity: Sparsity,
        *,
        end: int,
        begin: int = 0,
        every: int = 100,
        schedule: str | Schedule = "cubic",
        first: float = 0.0,
        score: str | Score = "magnitude",
        allocation: str = "uniform",
        pattern: str | Pattern | None = None,
        exclude: Collection[str] | None = None,
        include: Collection[str] = (),
        data: Iterable[Batch] | None = None,
        loss: Loss | None = None,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.sparsity = model, sparsity
        self.begin = check_whole("begin", begin, 0)
        self.end = check_whole("end", end, self.begin + 1)
        self.every = check_whole("every", every, 1)
        self.first = check_sparsity(first)
        self.schedule = find_schedule(schedule)
        if isinstance(data, Iterator):
            data = listed(data)  # read each time
        self.search: dict[str, Any] = {
            "score": score,
            "allocation": allocation,
            "pattern": pattern,
            "exclude": exclude,
            "include": include,
            "data": data,
            "loss": loss,
            "initial": initial,
        }
        self.steps = 0
        shares = sparsity.values() if isinstance(sparsity, Mapping) else [sparsity]
        if max((check_sparsity(share) for share in shares), default=0.0) <= self.first:
            raise SparselthError(
                f"the sparsity {sparsity} is not above the first one, {self.first:g}: nothing "
                "would be pruned"
            )
        if isinstance(pattern, NOfM) or pattern == "kernel_shape" or ":" in str(pattern):
            raise SparselthError(
                f"pattern={pattern!r} fixes the sparsity, and gradual pruning comes to it in "
                "parts; take another pattern"
            )
        # All between lie between these: the least that is pruned, and the most.
        for part in (0.0, min(every / (self.end - self.begin), 1.0), 1.0):
            check_search(model, sparsity=self._at(part), **self.search)
        within = masks_of(model)
        start = self.search if self.first else self.search | {"score": "magnitude", "pattern": None}
        masks = find_masks(model, sparsity=self._at(0.0), **start)
        sparsify(model, {name: mask & within.get(name, mask) for name, mask in masks.items()})

    def _at(self, part: float) -> Sparsity:
        if part == 0:
            names = self.sparsity if isinstance(self.sparsity, Mapping) else None
            return self.first if names is None else dict.fromkeys(names, self.first)
        return scheduled(self.schedule, part, self.first, self.sparsity)

    def step(self) -> bool:
        """Count a step, and prune where it is time to; say whether it did.

        Raises SparselthError as `find_masks` does, on NaN in a weight for one.
        """
        self.steps += 1
        due = self.steps == self.end or (
            self.begin < self.steps < self.end and (self.steps - self.begin) % self.every == 0
        )
        if due:
            part = (self.steps - self.begin) / (self.end - self.begin)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is left out and rounded: said before
                masks = find_masks(
                    self.model, sparsity=self._at(part), within=masks_of(self.model), **self.search
                )
            move_masks(self.model, masks)
        return due

    def _resumed(self) -> None:
        move_masks(self.model, masks_of(self.model))  # layers as they are at this sparsity
