"""A search for masks: everything checked that can be before anything is trained, then run."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..checks import check_model, check_whole
from ..errors import SparselthError
from ..nn.kinds import Site, sites_of
from ..ops.checks import check_sparsity
from ..ops.patterns import ELEMENT, Blocks, NOfM, Pattern
from .allocation import DEFAULT_SPARSITY, TOGETHER, Sparsity, allocation_of, counts_for
from .arguments import (
    check_allocation,
    checked_initial,
    checked_within,
    pattern_of_score,
)
from .channels import Coupled
from .flops import check_budget, costs_of, least_saving
from .left import Units, channels_of, check_left, check_saved, costing, pruned_share, units_of
from .patterns import COMPOSED, pattern_for
from .schedules import Schedule, scheduled
from .scores import SCORES, Score, ScoreContext, name_of
from .scores.batches import Batch, Loss, listed
from .scores.context import Declared, declared
from .scores.ranking import check_needs, find_score, ranked
from .scores.values import magnitude, random
from .selecting import Counts, check_ranking, lamp, last_where_pruned, select, spread
from .structured import coupled_masks, filters_and_columns, prunable_groups
from .tensors import check_values, sites_and_sparsity


@dataclass(frozen=True)
class Search:
    """What `find_masks` looks for, and where: its arguments, the score found by its name."""

    model: nn.Module
    sites: dict[str, Site]
    score: Score
    sparsity: Sparsity | None
    allocation: str
    pattern: str | Pattern
    context: ScoreContext
    costs: Mapping[str, float] | None = None
    """Multiplications that each weight of a layer takes, where the sparsity is a share of those."""
    coupled: tuple[Coupled, ...] = ()
    """The channels that go together, where they are what is pruned."""

    @classmethod
    def prepared(
        cls,
        model: nn.Module,
        score: str | Score,
        sparsity: Sparsity | None = None,
        allocation: str = "uniform",
        pattern: str | Pattern | None = None,
        exclude: Collection[str] | None = None,
        include: Collection[str] = (),
        data: Iterable[Batch] | None = None,
        loss: Loss | None = None,
        within: Mapping[str, Tensor] | None = None,
        initial: Mapping[str, Tensor] | None = None,
        budget: str = "weights",
    ) -> Search:
        """Look names up and check the rest, as far as that goes without ranking weights.

        Raises SparselthError for an unknown name, a weight that cannot have a mask, a sparsity or
        counts that do not fit the pattern and the layers.
        """
        check_model(model)
        check_budget(budget)
        scorer = find_score(score, SCORES)
        sites, sparsity = sites_and_sparsity(model, sparsity, exclude, include)
        check_values({name: site.slot for name, site in sites.items()})
        allocation = allocation_of(sparsity, allocation)
        # What channels feed is masked with them, be it ranked or not.
        places = sites_of(model) if pattern == "coupled" else sites
        left = {} if within is None else checked_within(model, places, within)
        context = ScoreContext(
            model,
            data,
            loss,
            left,
            None if initial is None else checked_initial(model, sites, initial),
            transposed=frozenset(name for name, site in sites.items() if site.kind.transposed),
        )
        check_needs(name_of(scorer), scorer, context)
        pattern = pattern_of_score(scorer, pattern)
        check_allocation(scorer, allocation, pattern)
        if isinstance(data, Iterator) and (budget == "flops" or pattern == "coupled"):
            data = listed(data)  # read for its first x, and again by the score
            context = replace(context, data=data)
        if budget == "flops" and sparsity is None:
            sparsity = DEFAULT_SPARSITY
        costs = None if budget == "weights" else costs_of(model, sites, sparsity, data)
        coupled: tuple[Coupled, ...] = ()
        if pattern == "coupled":
            if costs is not None:
                raise SparselthError(
                    'pattern="coupled" takes a share of the channels, and budget="flops" one of '
                    'the multiplications; take budget="weights"'
                )
            coupled = prunable_groups(model, sites, sparsity, allocation, data, exclude)
        search = cls(model, sites, scorer, sparsity, allocation, pattern, context, costs, coupled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the masks are found
            search._check_left(search._kept_by_shape())
        return search

    def _check_left(self, k: Counts) -> None:
        """Refuse a sparsity that keeps more than `within` leaves."""
        if not self.context.masks:
            return
        if self.costs is not None:
            assert self.sparsity is not None
            assert not isinstance(self.sparsity, Mapping)
            check_saved(self._units(), check_sparsity(self.sparsity))
        elif self.pattern in ("element", ELEMENT):
            check_left(self._units(), k)

    def check_enough(self) -> None:
        """Refuse a sparsity that leaves fewer weights or groups than there are layers.

        What else "global" may empty shows when weights are ranked.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the masks are found
            k = self._kept_by_shape()
        layers = sum(site.slot.numel() > 0 for site in self.sites.values())
        if self.allocation in TOGETHER and isinstance(k, int) and k < layers:
            raise SparselthError(
                f"a sparsity of {self.sparsity} keeps {k} of all weights or groups together, and "
                f"there are {layers} layers that need one each; lower the sparsity"
            )

    def in_steps(self, count: int, schedule: Schedule) -> list[Search]:
        """Return a search for each of so many steps.

        Raises SparselthError for less than one step, and for a pattern that fixes the sparsity.
        """
        if check_whole("steps", count, 1) == 1:
            return [self]
        sparsity = self.sparsity
        if sparsity is None:
            if not isinstance(self._pattern_of([s.slot for s in self.sites.values()]), Blocks):
                raise SparselthError(
                    f"pattern={self.pattern!r} fixes the sparsity, and steps={count} come to it in "
                    "parts; take steps=1, or another pattern"
                )
            sparsity = DEFAULT_SPARSITY
        data = None if self.context.data is None else listed(self.context.data)  # seen in each
        context = replace(self.context, data=data)
        first = pruned_share(self._units(), sparsity)
        parts = ((done + 1) / count for done in range(count))
        shares = (scheduled(schedule, part, first, sparsity) for part in parts)
        return [replace(self, sparsity=share, context=context) for share in shares]

    def _units(self) -> Units:
        """Return what is left to choose among, as the sparsity counts it."""
        masks = self.context.masks
        if self.coupled:
            return channels_of(self.model, self.coupled, masks)
        left = self._oriented([masks.get(name) for name in self.sites])
        slots = self._oriented([site.slot for site in self.sites.values()])
        by = self._pattern_of(slots) if self.costs is None else ELEMENT
        units = units_of(dict(zip(self.sites, slots, strict=True)), left, by)
        return units if self.costs is None else costing(units, self.costs)

    def among(self, masks: Mapping[str, Tensor]) -> Search:
        """Return the search for the same among what masks leave."""
        return replace(self, context=replace(self.context, masks=masks))

    def _kept_by_shape(self) -> Counts:
        weights = self._oriented([site.slot for site in self.sites.values()])
        return self._counts(weights, self._pattern_of(weights))

    def run(self) -> dict[str, Tensor]:
        """Rank the weights as they are now: parameter name -> bool mask.

        Raises SparselthError on NaN or Inf, naming the weight.
        """
        weights = {name: site.parameter.detach() for name, site in self.sites.items()}
        left = [self.context.masks.get(name) for name in weights]
        ranked = self._ranked(weights)
        if self.coupled:
            return self._coupled(dict(zip(weights, ranked, strict=True)))
        scores = self._by_weight(ranked, left)
        if self.allocation == "lamp":
            scores = [lamp(score) for score in scores]
        groups = self._pattern_of(scores)
        k = self._counts(scores, groups)
        self._check_ranking(ranked, left, k, groups)
        if self.costs is None:
            return self._selected(scores, groups, k)
        return self._within_flops(scores, groups)

    def _coupled(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        model, left = self.context.model, self.context.masks
        share = DEFAULT_SPARSITY if self.sparsity is None else self.sparsity
        assert not isinstance(share, Mapping)
        if self.score not in (magnitude, random):
            sizes = [score.numel() for score in scores.values()]
            check_ranking(
                name_of(self.score), list(scores), list(scores.values()), None, sizes, each=False
            )
        whole = {n: torch.ones_like(s.slot, dtype=torch.bool) for n, s in self.sites.items()}
        found = coupled_masks(model, self.coupled, scores, left, share, self.allocation in TOGETHER)
        return {name: self._within(name, mask) for name, mask in (whole | found).items()}

    def _selected(self, scores: list[Tensor], groups: Pattern, k: Counts) -> dict[str, Tensor]:
        if self.pattern == "filter+column":
            assert isinstance(k, list)
            masks = filters_and_columns(scores, k)
        else:
            masks = select(list(self.sites), scores, k, self.allocation, groups)
        found = dict(zip(self.sites, self._oriented(masks), strict=True))
        return {name: self._within(name, mask) for name, mask in found.items()}

    def _within_flops(self, scores: list[Tensor], groups: Pattern) -> dict[str, Tensor]:
        """Return the masks of the least sparsity that saves the share of multiplications asked."""
        assert self.costs is not None
        assert self.sparsity is not None
        assert not isinstance(self.sparsity, Mapping)

        def masks_at(share: float) -> dict[str, Tensor]:
            search = replace(self, sparsity=share)
            return search._selected(scores, groups, search._counts(scores, groups))

        return least_saving(masks_at, self.costs, check_sparsity(self.sparsity))

    def _ranked(self, weights: dict[str, Tensor]) -> list[Tensor]:
        """Return what the score says of each layer: of its weights, or of its units."""
        if self.score is magnitude:  # nothing to copy and to look through
            return list(weights.values())
        context = self.context
        if "kept" in declared(self.score).names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said when the masks are found
                k = self._kept_by_shape()
            assert isinstance(k, list)
            context = replace(context, kept=dict(zip(self.sites, k, strict=True)))
        return ranked(name_of(self.score), self.score, weights, context)

    def _by_weight(self, ranked: list[Tensor], masks: list[Tensor | None]) -> list[Tensor]:
        """Return scores of single weights, as (out, in, ...) where the pattern wants it."""
        unit = declared(self.score).unit
        if unit == "weight":
            pairs = zip(ranked, masks, strict=True)
            return self._oriented([last_where_pruned(score, left) for score, left in pairs])
        like = self._oriented([site.slot for site in self.sites.values()])
        three = zip(ranked, like, self._oriented(masks), strict=True)
        return [spread(ranks, slot.shape, unit, left) for ranks, slot, left in three]

    def _check_ranking(
        self, ranked: list[Tensor], masks: list[Tensor | None], k: Counts, groups: Pattern
    ) -> None:
        if self.score in (magnitude, random):  # of equal ones the first stay, and any
            return
        whole = declared(self.score).unit != "weight"
        pairs = zip(ranked, masks, strict=True)
        left = [s if mask is None or whole else s[mask] for s, mask in pairs]
        shapes = [t.shape for t in self._oriented([s.slot for s in self.sites.values()])]
        sizes = [s.numel() if isinstance(groups, NOfM) else groups.groups(s) for s in shapes]
        each = declared(self.score) != Declared()  # one's own may rank layers alone
        check_ranking(name_of(self.score), list(self.sites), left, k, sizes, each)

    def _within(self, name: str, mask: Tensor) -> Tensor:
        left = self.context.masks.get(name)
        return mask if left is None else mask & left

    def _oriented(self, tensors: list) -> list:
        """Return tensors of the weights as (out, in, ...) for patterns of more than one weight.

        Its own inverse.
        """
        if self.pattern in ("element", "coupled", ELEMENT):
            return tensors
        return [
            t.transpose(0, 1).contiguous() if t is not None and site.kind.transposed else t
            for t, site in zip(tensors, self.sites.values(), strict=True)
        ]

    def _pattern_of(self, weights: list[Tensor]) -> Pattern:
        if self.pattern in COMPOSED:
            return ELEMENT  # its share is one of weights, or of channels
        return pattern_for(self.pattern, [w.detach() for w in weights], COMPOSED)

    def _counts(self, weights: list[Tensor], groups: Pattern) -> Counts:
        # Shapes alone: counts are the same for weights of any dtype, and of several.
        pairs = zip(self.sites, weights, strict=True)
        shapes = {name: torch.empty(w.shape, device="meta") for name, w in pairs}
        return counts_for(shapes, self.sparsity, self.allocation, groups, stacklevel=7)
