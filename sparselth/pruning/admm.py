"""ADMM pruning: train towards the sparsity set, then cut to it.

    minimise f(W) + sum_l g_l(Z_l)  subject to  W_l = Z_l,   g_l the indicator of the set S_l
    W-step   the user's optimizer on  f(W) + sum_l rho/2 |W_l - Z_l + U_l|^2
    Z-step   Z <- Proj_S(W + U)
    U-step   U <- U + W - Z
The penalty is the squared norm. U is the scaled dual: when rho grows, U shrinks by the same
factor (Boyd et al. 2011, section 3.4.1).

Reference: Zhang et al. 2018, arXiv:1804.03294; Boyd et al. 2011, section 3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SparselthError
from ..ops import functional
from ..ops.checks import check_sparsity, kept_counts
from .tensors import prunable_parameters


@dataclass(frozen=True)
class ADMMUpdate:
    """What one Z/U update measured.

    primal: |W - Z|.  dual: rho |Z_new - Z_old|.  relative: |W - Z| / |W|, small before a cut.
    """

    primal: float
    dual: float
    relative: float


class ADMM:
    """ADMM pruning of a model's prunable weights.

    sparsity: share of weights to prune, in [0, 1).  rho: penalty weight, > 0.
    rho_growth: factor on rho at each update, >= 1.  allocation: "uniform" or "global".
    exclude: see `prunable_parameters`.

        admm = ADMM(model, sparsity=0.95)
        for epoch in range(epochs):
            for x, y in batches:
                loss = criterion(model(x), y) + admm.penalty()
                ...
            admm.update()
        sparsify(model, admm.masks())

    Raises SparselthError on a sparsity outside [0, 1), rho <= 0, rho_growth < 1, an unknown
    allocation, or NaN or Inf in a weight.
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: float = 0.9,
        rho: float = 1e-3,
        rho_growth: float = 1.0,
        allocation: str = "uniform",
        exclude: Collection[str] | None = None,
    ) -> None:
        if rho <= 0 or rho_growth < 1:
            raise SparselthError(
                f"rho must be > 0 and rho_growth >= 1, got {rho!r} and {rho_growth!r}"
            )
        self.sparsity = check_sparsity(sparsity)
        self.rho = rho
        self.rho_growth = rho_growth
        self.allocation = allocation
        self.parameters = prunable_parameters(model, exclude)
        # Z = Proj(W), U = 0: a projection with U = 0 leaves U = W - Z behind, which is not wanted.
        self.z = [mask * w for mask, w in zip(self._select(), self._weights(), strict=True)]
        self.u = [torch.zeros_like(w) for w in self._weights()]

    def _weights(self) -> list[Tensor]:
        return [p.detach() for p in self.parameters.values()]

    def _select(self) -> list[Tensor]:
        weights = self._weights()
        counts, pooled = kept_counts(weights, sparsity=self.sparsity, allocation=self.allocation)
        k = counts[0] if pooled else counts
        names = list(self.parameters)
        return list(functional.topk_mask(weights, k, allocation=self.allocation, names=names))

    def penalty(self) -> Tensor:
        """Return sum_l rho/2 |W_l - Z_l + U_l|^2, to be added to the loss. Scalar tensor."""
        terms = [
            (w - z + u).square().sum()
            for w, z, u in zip(self.parameters.values(), self.z, self.u, strict=True)
        ]
        return 0.5 * self.rho * torch.stack(terms).sum()

    @torch.no_grad()
    def update(self) -> ADMMUpdate:
        """Project and update the dual; grow rho. Call it every few epochs of W-steps.

        Raises SparselthError on NaN or Inf in a weight; Z, U and rho are untouched then.
        """
        weights = self._weights()
        residuals = functional.admm_project_(
            weights,
            self.z,
            self.u,
            sparsity=self.sparsity,
            allocation=self.allocation,
            names=list(self.parameters),
        ).sum(0)
        primal, change = residuals.sqrt().tolist()
        norm = float(torch.stack([w.double().square().sum() for w in weights]).sum().sqrt())
        result = ADMMUpdate(primal, self.rho * change, primal / norm if norm else 0.0)
        if self.rho_growth != 1.0:
            self.rho *= self.rho_growth
            torch._foreach_div_(self.u, self.rho_growth)
        return result

    def masks(self) -> dict[str, Tensor]:
        """Return the hard cut: masks of the largest |W| at the wanted sparsity."""
        return dict(zip(self.parameters, self._select(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return Z and U as tensors keyed "z.NAME" and "u.NAME", and "rho" as a float."""
        state: dict[str, Any] = {"rho": self.rho}
        for name, z, u in zip(self.parameters, self.z, self.u, strict=True):
            state[f"z.{name}"], state[f"u.{name}"] = z, u
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises SparselthError when a tensor is missing or has another shape.
        """
        for name, z, u in zip(self.parameters, self.z, self.u, strict=True):
            for key, target in ((f"z.{name}", z), (f"u.{name}", u)):
                if key not in state or state[key].shape != target.shape:
                    raise SparselthError(
                        f"the ADMM state has no {key!r} of shape {tuple(target.shape)}; "
                        "it belongs to another model"
                    )
        for name, z, u in zip(self.parameters, self.z, self.u, strict=True):
            z.copy_(state[f"z.{name}"])
            u.copy_(state[f"u.{name}"])
        self.rho = float(state["rho"])
