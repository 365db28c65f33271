"""A search for masks: everything checked that can be before anything is trained, then run."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import check_model
from ..errors import SparselthError
from ..nn.coverage import coverage
from ..nn.kinds import Site, sites_of
from ..ops import selection
from ..ops.patterns import ELEMENT, Pattern
from .allocation import Sparsity, allocation_of, counts_for, op_allocation
from .patterns import pattern_for
from .scores import Score, ScoreContext, find_score, ranked
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
    ) -> Search:
        """Look names up and check the rest, as far as that goes without ranking weights.

        Raises SparselthError for an unknown name, a weight that cannot have a mask, a sparsity or
        counts that do not fit the pattern and the layers.
        """
        check_model(model)
        scorer = find_score(score)
        sites, sparsity = sites_and_sparsity(model, sparsity, exclude, include)
        allocation = allocation_of(sparsity, allocation)
        search = cls(model, sites, scorer, sparsity, allocation, pattern)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the masks are found
            search._kept_by_shape()
        return search

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
        scores = self._oriented(ranked(self.score, weights, ScoreContext(self.model)))
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
        return dict(zip(self.sites, self._oriented(masks), strict=True))

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
