"""The sets that ADMM pulls weights to, and the Euclidean projection to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import SparselthError
from ..ops import selection
from ..ops.patterns import Pattern
from .allocation import Sparsity, counts_for, op_allocation
from .patterns import pattern_for


class Projection(Protocol):
    """The set that the weights are pulled to; weights are parameter name -> tensor."""

    def support(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what of each weight stays, bool masks.  weights: parameter name -> tensor."""

    def nearest(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the nearest point of the set, new tensors.  weights: parameter name -> tensor."""

    def project_(
        self, weights: Mapping[str, Tensor], z: Sequence[Tensor], u: Sequence[Tensor]
    ) -> Tensor:
        """Do Z <- Proj(W + U), U <- W + U - Z; return |W - Z|^2, |Z_new - Z_old|^2 per weight.

        weights: parameter name -> tensor.  z, u: a tensor of each, overwritten.
        Returns float64 (len(weights), 2).
        """


class SparseSet:
    """The weights with as many entries or groups as a sparsity leaves; arguments as in `ADMM`."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        sparsity: Sparsity | None,
        allocation: str,
        pattern: str | Pattern,
    ) -> None:
        if allocation == "lamp":
            raise SparselthError(
                'allocation="lamp" ranks by other than magnitudes, to which nothing is projected; '
                'take "global", "uniform" or "erk"'
            )
        self.pattern = pattern_for(pattern, list(weights.values()))
        self.k = counts_for(weights, sparsity, allocation, self.pattern)
        self.options: dict[str, Any] = {
            "k": self.k,
            "allocation": op_allocation(allocation),
            "pattern": self.pattern,
            "names": list(weights),
        }

    def support(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return masks of the largest magnitudes, or groups."""
        return list(selection.topk_mask(list(weights.values()), **self.options))

    def nearest(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the weights with all but the largest set to zero."""
        masks = self.support(weights)
        return [torch.where(m, w, 0) for m, w in zip(masks, weights.values(), strict=True)]

    def project_(
        self, weights: Mapping[str, Tensor], z: Sequence[Tensor], u: Sequence[Tensor]
    ) -> Tensor:
        """Project and update the dual by the fused op."""
        return selection.admm_project_(list(weights.values()), z, u, **self.options)


def check_projection(projection: Any) -> None:
    """Require what `Projection` has."""
    names = ("support", "nearest", "project_")
    missing = [name for name in names if not callable(getattr(projection, name, None))]
    if missing or isinstance(projection, type):
        raise SparselthError(
            "projection must be a set such as sparselth.pruning.Levels(bits=4), with the methods "
            f"{', '.join(names)}; got {projection!r}"
        )
