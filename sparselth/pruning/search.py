"""A search for masks: everything checked that can be before anything is trained, then run."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..checks import check_mapping, check_model, check_whole
from ..errors import SparselthError
from ..nn.coverage import coverage
from ..nn.kinds import Site, site_names, sites_of
from ..ops import selection
from ..ops.checks import MASKS, check_mask
from ..ops.patterns import ELEMENT, Blocks, Pattern
from .allocation import (
    DEFAULT_SPARSITY,
    Sparsity,
    allocation_of,
    counts_for,
    op_allocation,
    up_to,
)
from .patterns import pattern_for
from .scores import SCORES, magnitude
from .scores.context import (
    Batch,
    Loss,
    Score,
    ScoreContext,
    check_needs,
    find_score,
    is_signed,
    name_of,
    ranked,
)
from .tensors import sites_and_sparsity


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

    @classmethod
    def prepared(
        cls,
        model: nn.Module,
        score: str | Score,
        sparsity: Sparsity | None = None,
        allocation: str = "uniform",
        pattern: str | Pattern = "element",
        exclude: Collection[str] | None = None,
        include: Collection[str] = (),
        data: Iterable[Batch] | None = None,
        loss: Loss | None = None,
        within: Mapping[str, Tensor] | None = None,
    ) -> Search:
        """Look names up and check the rest, as far as that goes without ranking weights.

        Raises SparselthError for an unknown name, a weight that cannot have a mask, a sparsity or
        counts that do not fit the pattern and the layers.
        """
        check_model(model)
        scorer = find_score(score, SCORES)
        sites, sparsity = sites_and_sparsity(model, sparsity, exclude, include)
        allocation = allocation_of(sparsity, allocation)
        left = {} if within is None else _checked_within(model, sites, within)
        context = ScoreContext(model, data, loss, left)
        check_needs(name_of(scorer), scorer, context)
        if is_signed(scorer) and pattern not in ("element", ELEMENT):
            raise SparselthError(
                f"the score {name_of(scorer)!r} ranks single weights, by their values; got "
                f'pattern={pattern!r}, take "element" or another score'
            )
        search = cls(model, sites, scorer, sparsity, allocation, pattern, context)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the masks are found
            search._check_left(search._kept_by_shape())
        return search

    def _check_left(self, k: int | list[int] | None) -> None:
        """Refuse a sparsity that keeps more weights than `within` leaves."""
        if not self.context.masks or self.pattern not in ("element", ELEMENT):
            return
        left = self._left()
        if isinstance(k, list):
            counted = zip(self.sites, left, k, strict=True)
            short = [(name, most, c) for name, most, c in counted if c > most]
        else:
            short = [("all layers", sum(left), k)] if k is not None and k > sum(left) else []
        if short:
            name, most, count = short[0]
            raise SparselthError(
                f"within leaves {most} weights of {name}, and the sparsity keeps {count}: it is a "
                "share of all weights, so raise it above that of within"
            )

    def check_enough(self) -> None:
        """Refuse a sparsity that leaves fewer weights or groups than there are layers.

        Raises SparselthError; what else "global" may empty shows when weights are ranked.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the masks are found
            k, layers = self._kept_by_shape(), len(self.sites)
        if self.allocation == "global" and isinstance(k, int) and k < layers:
            raise SparselthError(
                f"a sparsity of {self.sparsity} keeps {k} of all weights or groups together, and "
                f"there are {layers} layers that need one each; lower the sparsity"
            )

    def in_steps(self, count: int) -> list[Search]:
        """Return a search for each of so many steps, each to prune the same share of what is left.

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
        data = None if self.context.data is None else list(self.context.data)  # seen in each
        context = replace(self.context, data=data)
        parts = [(done + 1) / count for done in range(count)]
        shares = [up_to(sparsity, part, self._left_of(sparsity)) for part in parts]
        return [replace(self, sparsity=share, context=context) for share in shares]

    def _left_of(self, sparsity: Sparsity) -> float | dict[str, float]:
        """Return the share of the weights that is left to choose among, by layer as `sparsity`."""
        sizes = {name: site.slot.numel() for name, site in self.sites.items()}
        left = dict(zip(sizes, self._left(), strict=True))
        if isinstance(sparsity, Mapping):
            return {name: left[name] / size for name, size in sizes.items() if size}
        return sum(left.values()) / max(sum(sizes.values()), 1)

    def _left(self) -> list[int]:
        """Return how many weights of each layer are left to choose among."""
        masks = self.context.masks
        return [
            int(masks[name].sum()) if name in masks else site.slot.numel()
            for name, site in self.sites.items()
        ]

    def among(self, masks: Mapping[str, Tensor]) -> Search:
        """Return the search for the same among what masks leave."""
        return replace(self, context=replace(self.context, masks=masks))

    def _kept_by_shape(self) -> int | list[int] | None:
        weights = self._oriented([site.slot for site in self.sites.values()])
        return self._counts(weights, self._pattern_of(weights))

    def warn_of_gaps(self, model: nn.Module) -> None:
        """Warn where weights are left out that nobody excluded, by names or not naming them."""
        if isinstance(self.sparsity, Mapping):
            return
        covers = coverage(model, self.sites)
        # Of what is pruned by default, only what was excluded is left out: the rest was refused.
        excluded = {name for name, site in sites_of(model).items() if site.kind.by_default}
        gaps = {
            name: why
            for name, why in covers.left_out.items()
            if name not in excluded and why != "excluded"
        }
        if gaps:
            text = str(type(covers)(covers.covered, covers.total, gaps))
            warnings.warn(text, stacklevel=4)  # who called find_masks

    def run(self) -> dict[str, Tensor]:
        """Rank the weights as they are now: parameter name -> bool mask.

        Raises SparselthError on NaN or Inf, naming the weight.
        """
        weights = {name: site.parameter.detach() for name, site in self.sites.items()}
        scores = self._oriented(
            [
                _last_where_pruned(score, self.context.masks.get(name))
                for name, score in zip(weights, self._scores(weights), strict=True)
            ]
        )
        groups = self._pattern_of(scores)
        k = self._counts(scores, groups)
        if self.allocation == "global":
            scores = _of_one_kind(list(self.sites), scores)
        masks: list[Tensor | None] = [None] * len(scores)
        for places in _alike(scores):
            selected = selection.topk_mask(
                [scores[i] for i in places],
                [k[i] for i in places] if isinstance(k, list) else k,
                allocation=op_allocation(self.allocation),
                pattern=groups,
                names=[list(self.sites)[i] for i in places],
            )
            for i, mask in zip(places, selected, strict=True):
                masks[i] = mask
        found = dict(zip(self.sites, self._oriented(masks), strict=True))
        return {name: self._within(name, mask) for name, mask in found.items()}

    def _scores(self, weights: dict[str, Tensor]) -> list[Tensor]:
        if self.score is magnitude:  # nothing to copy and to look through
            return list(weights.values())
        return ranked(self.score, weights, self.context)

    def _within(self, name: str, mask: Tensor) -> Tensor:
        left = self.context.masks.get(name)
        return mask if left is None else mask & left

    def _oriented(self, tensors: list) -> list:
        """Return tensors of the weights as (out, in, ...) for patterns of more than one weight.

        Its own inverse.
        """
        if self.pattern in ("element", ELEMENT):
            return tensors
        return [
            t.transpose(0, 1).contiguous() if site.kind.transposed else t
            for t, site in zip(tensors, self.sites.values(), strict=True)
        ]

    def _pattern_of(self, weights: list[Tensor]) -> Pattern:
        return pattern_for(self.pattern, [w.detach() for w in weights])

    def _counts(self, weights: list[Tensor], groups: Pattern) -> int | list[int] | None:
        # Shapes alone: counts are the same for weights of any dtype, and of several.
        shapes = {
            name: torch.empty(w.shape, device="meta")
            for name, w in zip(self.sites, weights, strict=True)
        }
        return counts_for(shapes, self.sparsity, self.allocation, groups, stacklevel=7)


def _checked_within(
    model: nn.Module, sites: Mapping[str, Site], within: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the masks of what is left to choose among, by the names of the places."""
    check_mapping("within", within, MASKS)
    places = site_names(model, sites)
    unknown = sorted(name for name in within if name not in places)
    if unknown:
        raise SparselthError(f"within names {unknown}, which are not ranked here: {sorted(sites)}")
    for name, mask in within.items():
        check_mask(mask, sites[places[name]].slot, f"the mask of {name!r} in within")
    return {places[name]: mask for name, mask in within.items()}


# Below any number of single precision, and its square, which groups are ranked by, is not zero.
_LEAST = 1e-150


def _last_where_pruned(score: Tensor, left: Tensor | None) -> Tensor:
    """Return scores that rank what is pruned already behind all that is left."""
    if left is None:
        return score
    return torch.where(left, score.double().abs().clamp(min=_LEAST), 0.0)


def _alike(tensors: list[Tensor]) -> list[list[int]]:
    """Group the places of tensors of one dtype and device, as the ops take them."""
    places: dict[Hashable, list[int]] = {}
    for i, tensor in enumerate(tensors):
        places.setdefault((tensor.dtype, tensor.device), []).append(i)
    return list(places.values())


def _of_one_kind(names: list[str], scores: list[Tensor]) -> list[Tensor]:
    """Return scores of layers that are ranked together, in the widest of their dtypes."""
    devices = {score.device for score in scores}
    if len(devices) > 1:
        where = ", ".join(f"{n} on {s.device}" for n, s in zip(names, scores, strict=True))
        raise SparselthError(
            f'allocation="global" ranks all layers together, on one device; got {where}'
        )
    dtypes = {score.dtype for score in scores}
    if len(dtypes) == 1:
        return scores
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    return [score.to(wide) for score in scores]
