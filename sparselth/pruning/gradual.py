"""Pruning step by step within a training loop."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_whole
from ..errors import SparselthError
from ..nn import masks_of, move_masks, sparsify
from ..ops.checks import check_sparsity
from ..ops.patterns import ELEMENT, NOfM, Pattern
from .allocation import TOGETHER, Sparsity, allocation_of, counts_for
from .masks import check_alive, check_search, find_masks
from .schedules import Schedule, find_schedule, scheduled
from .scores import Score
from .scores.batches import Batch, Loss, listed
from .search import Search
from .step_count import CountsSteps


class GradualPruning(CountsSteps):
    """Prunes a model while it trains: `step()` after each step of the optimizer.

    The model is made sparse at once, with the masks of the first sparsity, none pruned by default;
    nothing that is pruned comes back. What is sparse already begins as it is: from its own share of
    pruned weights where that is above the first one. A layer that is sparser than it is asked to be
    stays so, and masks of layers that are left out stay as they are.

    model: plain or sparse already.  sparsity: that is reached, as in `find_masks`.
    schedule: how it is reached, one of `SCHEDULES` or a function (part, first, last) -> sparsity.
    begin, end: the steps between which it prunes, counted from 0; at `end` the sparsity is reached.
    every: so many steps lie between two times it prunes.  first: the sparsity it begins with, where
    a layer by name does not end at less.
    score, allocation, pattern, exclude, include, data, loss, initial: as in `find_masks`, which is
    called each time; `data` is read each time, too.

    Raises SparselthError as `find_masks` would, for steps that are none, for a schedule that prunes
    nothing, and for a model that is as sparse already.

    Reference: Zhu & Gupta 2017, arXiv:1710.01878 ("cubic", magnitude).
    """

    eager_only = False
    _kept = ("start",)

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
        found = Search.prepared(model, sparsity=sparsity, **self.search)
        self._sites, self._coupled = found.sites, found.coupled
        self._by_weight = found.pattern in ("element", ELEMENT)
        assert found.sparsity is not None
        self.sparsity = found.sparsity  # its patterns of names are names now
        left = self._left()
        check_alive(left)
        self.start = self._started(left)
        # All between lie between these: the least that is pruned, and the most.
        for part in (0.0, min(every / (self.end - self.begin), 1.0), 1.0):
            check_search(model, within=left, **self._search_at(part, left))
        masks = self._touched() | self._first_masks(left)
        sparsify(model, {name: mask & left.get(name, mask) for name, mask in masks.items()})

    def _first_masks(self, left: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.first:
            return find_masks(self.model, within=left, **self._search_at(0.0, left))
        # Nothing is to be ranked: what is there stays.
        none = dict.fromkeys(self.sparsity, 0.0) if isinstance(self.sparsity, Mapping) else 0.0
        whole = {"sparsity": none, "score": "magnitude", "pattern": None}
        return find_masks(self.model, **(self.search | whole))

    def _left(self) -> dict[str, Tensor]:
        """Return the masks of what is searched, as they are."""
        masks = masks_of(self.model)
        # What channels feed is masked with them, be it ranked or not.
        return masks if self._coupled else {n: m for n, m in masks.items() if n in self._sites}

    def _touched(self) -> dict[str, Tensor]:
        """Return masks that keep all, of every weight that is going to have one.

        So that the model has the same buffers from the first step on, for a state dict to fit.
        """
        names = [name for g in self._coupled for name, *_ in g.roles() if name not in g.norms]
        whole = {name: self.model.get_parameter(name) for name in names}
        return {name: torch.ones_like(w, dtype=torch.bool) for name, w in whole.items()}

    def _started(self, left: Mapping[str, Tensor]) -> Sparsity:
        """Return the sparsity at the beginning: the first one, or what the model has already.

        Raises SparselthError where that is what is asked for.
        """
        own = self._pruned(left) if self._by_weight else dict.fromkeys(self._sites, 0.0)
        start: Sparsity
        if isinstance(self.sparsity, Mapping):
            ends = self.sparsity
            done = all(own[name] >= end for name, end in ends.items())
            start = {name: max(own[name], min(self.first, end)) for name, end in ends.items()}
        else:
            done = self._together(own) >= self.sparsity
            start = max(self._together(own), self.first)
        if done:
            raise SparselthError(
                f"the model is as sparse as {self.sparsity} already: nothing would be pruned"
            )
        return start

    def _pruned(self, left: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the share of each layer that is pruned already."""
        none = dict.fromkeys(self._sites, 0.0)
        return none | {n: 1 - int(m.count_nonzero()) / max(m.numel(), 1) for n, m in left.items()}

    def _together(self, shares: Mapping[str, float]) -> float:
        """Return the share of all weights together, of that of each layer."""
        sizes = {name: site.slot.numel() for name, site in self._sites.items()}
        return sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())

    def _search_at(self, part: float, left: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what is searched after a part of the steps: never for less than is pruned."""
        share = scheduled(self.schedule, part, self.start, self.sparsity) if part else self.start
        search = self.search | {"sparsity": share}
        if not self._by_weight:  # groups may be pruned in part, and are ranked whatever is left
            return search
        pruned = self._pruned(left)
        if search["allocation"] in TOGETHER:
            assert not isinstance(share, Mapping)
            return search | {"sparsity": max(share, self._together(pruned))}
        shapes = {n: torch.empty(s.slot.shape, device="meta") for n, s in self._sites.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the masks are found
            counts = counts_for(shapes, share, allocation_of(share, search["allocation"]))
        assert isinstance(counts, list)
        asked = {n: 1 - c / max(shapes[n].numel(), 1) for n, c in zip(shapes, counts, strict=True)}
        if all(asked[name] >= pruned[name] for name in asked):
            return search
        most = {name: max(asked[name], pruned[name]) for name in asked}
        return search | {"sparsity": most, "allocation": "given"}

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
                left = self._left()
                masks = find_masks(self.model, within=left, **self._search_at(part, left))
            move_masks(self.model, masks)
        return due

    def _resumed(self) -> None:
        move_masks(self.model, masks_of(self.model))  # layers as they are at this sparsity
