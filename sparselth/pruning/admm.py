"""ADMM pruning: train towards the sparsity set, then cut to it.

    minimize f(W) + sum_l g_l(Z_l)  subject to  W_l = Z_l,   g_l the indicator of the set S_l
    W-step   the user's optimizer on  f(W) + sum_l rho/2 |W_l - Z_l + U_l|^2
    Z-step   Z <- Proj_S(W + U)
    U-step   U <- U + W - Z
The penalty is the squared norm. U is the scaled dual: when rho grows, U shrinks by the same
factor (Boyd et al. 2011, section 3.4.1).

The set is one of sparsity by default; `quantize.Levels` is one of quantized weights.

Reference: Zhang et al. 2018, arXiv:1804.03294; Boyd et al. 2011, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_mapping, check_number, check_whole
from ..deprecated import keyword_only
from ..errors import SparselthError
from ..nn.kinds import Site
from ..ops.patterns import ELEMENT, Pattern
from .allocation import Sparsity, allocation_of
from .masks import check_alive
from .projection import Projection, SparseSet, check_projection
from .residuals import ADMMUpdate
from .rho import RhoSchedule, find_schedule
from .tensors import sites_and_sparsity


class ADMM:
    """ADMM pruning of a model's prunable weights, those of `prunable_parameters`.

    model: plain, or sparse already; it is held, and its weights are read at every update.
    sparsity, allocation, pattern, exclude: as in `find_masks`; a fraction, 0.9 when None, and by
    default the first convolution and the classifier stay dense.
    rho: penalty weight, > 0.
    projection: another set than that sparsity, such as `quantize.Levels`; sparsity, allocation and
    pattern are then left out.
    rho_schedule: how rho changes: a schedule of `sparselth.pruning.rho`, or a name there.
    abs_tol, rel_tol: of the stopping rule, `ADMMUpdate.converged`: with n weights,
    |W - Z| <= sqrt(n) abs_tol + rel_tol max(|W|, |Z|) and
    rho |Z_new - Z_old| <= sqrt(n) abs_tol + rel_tol rho |U|.

        admm = ADMM(model, sparsity=0.95)
        optimizer = sparselth.optim.SGD(model.parameters(), lr=0.01, admm=admm)  # or AdamW
        for epoch in range(epochs):
            for x, y in batches:
                loss = criterion(model(x), y)
                ...
            if admm.update().converged:
                break
        sparsify(model, admm.hard_prune())

    With any other optimizer, add `admm.penalty()` to the loss.

    Raises SparselthError on a sparsity outside [0, 1), rho <= 0, a negative tolerance, numbers that
    are not finite, an unknown allocation or schedule, what is no projection, or NaN or Inf in a
    weight.
    """

    @keyword_only(
        *("sparsity", "rho", "rho_schedule", "allocation", "pattern", "exclude", "projection"),
        *("abs_tol", "rel_tol"),
    )
    def __init__(
        self,
        model: nn.Module,
        *,
        sparsity: Sparsity | None = None,
        rho: float = 1e-3,
        rho_schedule: str | RhoSchedule = "constant",
        allocation: str = "uniform",
        pattern: str | Pattern = "element",
        exclude: Collection[str] | None = None,
        projection: Projection | None = None,
        abs_tol: float = 1e-5,
        rel_tol: float = 1e-2,
    ) -> None:
        self.rho = check_number("rho", rho, above=0)
        self.rho_schedule = find_schedule(rho_schedule)
        self.updates = 0
        self.abs_tol = check_number("abs_tol", abs_tol, least=0)
        self.rel_tol = check_number("rel_tol", rel_tol, least=0)
        self._sites, sparsity = sites_and_sparsity(model, sparsity, exclude)
        _refuse_turned(self._sites, pattern)
        if projection is None:
            allocation = allocation_of(sparsity, allocation)
            projection = SparseSet(self._weights(), sparsity, allocation, pattern)
        elif (sparsity, allocation, pattern) != (None, "uniform", "element"):
            raise SparselthError(
                "ADMM takes either a projection, or sparsity, allocation and pattern; got both"
            )
        else:
            check_projection(projection)
        self.projection = projection
        self.z = projection.nearest(self._weights())
        self.u = [torch.zeros_like(w) for w in self.z]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that are pruned, by name: those that the model has now.

        Of a model that is sparse already they are zero off the masks it has.

        Raises SparselthError where one was replaced by another of a different shape.
        """
        self._slots()
        return {name: site.parameter for name, site in self._sites.items()}

    def _slots(self) -> dict[str, nn.Parameter]:
        """Return `parameters` whatever was written to them: asked for in every step."""
        parameters = {name: site.slot for name, site in self._sites.items()}
        for (name, parameter), z in zip(parameters.items(), getattr(self, "z", ()), strict=False):
            if parameter.shape != z.shape:
                raise SparselthError(
                    f"{name} has shape {tuple(parameter.shape)} now, {tuple(z.shape)} when ADMM "
                    "began; make a new ADMM for the changed model"
                )
        return parameters

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.parameters.items()}

    def pairs(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return Z and U by the `id` of their parameter, of its shape, dtype and device."""
        lists = zip(self._slots().values(), self.z, self.u, strict=True)
        return {id(parameter): (z, u) for parameter, z, u in lists}

    def penalty(self) -> Tensor:
        """Return sum_l rho/2 |W_l - Z_l + U_l|^2, a scalar tensor, to be added to the loss.

        Not with an optimizer that was given `admm`: it adds the gradient itself.
        """
        terms = [
            (w - z + u).square().sum()
            for w, z, u in zip(self.parameters.values(), self.z, self.u, strict=True)
        ]
        return 0.5 * self.rho * torch.stack(terms).sum()

    @torch.no_grad()
    def update(self) -> ADMMUpdate:
        """Do Z <- Proj(W + U), U <- U + W - Z, then change rho; return what was measured.

        Call it every few epochs of W-steps.
        Raises SparselthError on NaN or Inf in a weight; Z, U and rho are untouched then.
        """
        weights = self._weights()
        primal, change = self.projection.project_(weights, self.z, self.u).sum(0).sqrt().tolist()
        w, z, u = (_norm(list(x)) for x in (weights.values(), self.z, self.u))
        absolute = self.abs_tol * math.sqrt(sum(t.numel() for t in self.z))
        result = ADMMUpdate(
            primal,
            self.rho * change,
            primal / w if w else 0.0,
            absolute + self.rel_tol * max(w, z),
            absolute + self.rel_tol * self.rho * u,
        )
        self.updates += 1
        factor = self.rho_schedule(result, self.updates)
        factor = check_number("the factor that rho_schedule returns", factor, above=0)
        if factor != 1.0:
            self.rho *= factor
            torch._foreach_div_(self.u, factor)
        return result

    def masks(self) -> dict[str, Tensor]:
        """Return what a cut would keep: parameter name -> bool mask.

        Raises SparselthError when a layer would keep no weight, see `check_alive`.
        """
        masks = dict(zip(self._sites, self.projection.support(self._weights()), strict=True))
        check_alive(masks)
        return masks

    @torch.no_grad()
    def hard_prune(self) -> dict[str, Tensor]:
        """Make the hard cut W <- Proj(W) in place, and return the masks of what stays.

        Raises SparselthError as `masks` does; nothing is written then.
        """
        masks = self.masks()
        nearest = self.projection.nearest(self._weights())
        for parameter, cut in zip(self._slots().values(), nearest, strict=True):
            parameter.copy_(cut)
        return masks

    def state_dict(self) -> dict[str, Any]:
        """Return Z and U as tensors keyed "z.NAME" and "u.NAME"; "rho" and "updates", numbers."""
        state: dict[str, Any] = {"rho": self.rho, "updates": self.updates}
        for name, z, u in zip(self._sites, self.z, self.u, strict=True):
            state[f"z.{name}"], state[f"u.{name}"] = z, u
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, in place.

        state: of an ADMM of the same model; nothing is written where it does not fit.

        Raises SparselthError when a tensor or number is missing, or has another shape.
        """
        check_mapping("the ADMM state", state, "names to tensors, as state_dict returns it")
        for name, z, u in zip(self._sites, self.z, self.u, strict=True):
            for key, target in ((f"z.{name}", z), (f"u.{name}", u)):
                if getattr(state.get(key), "shape", None) != target.shape:
                    raise SparselthError(
                        f"the ADMM state has no {key!r} of shape {tuple(target.shape)}; "
                        "it belongs to another model"
                    )
        rho = check_number("rho of the ADMM state", state.get("rho"), above=0)
        updates = check_whole("updates of the ADMM state", state.get("updates"), 0)
        for name, z, u in zip(self._sites, self.z, self.u, strict=True):
            z.copy_(state[f"z.{name}"])
            u.copy_(state[f"u.{name}"])
        self.rho, self.updates = rho, updates


def _refuse_turned(sites: Mapping[str, Site], pattern: str | Pattern) -> None:
    """Refuse groups of weights where a layer keeps its weights as (in, out)."""
    turned = [name for name, site in sites.items() if site.kind.transposed]
    if turned and pattern not in ("element", ELEMENT):
        raise SparselthError(
            f"ADMM prunes single weights of transposed layers, and {', '.join(turned)} "
            f'have their inputs first; use pattern="element", or exclude them'
        )


def _norm(tensors: list[Tensor]) -> float:
    """Return the Euclidean norm over all tensors."""
    return float(torch.stack(torch._foreach_norm(tensors)).double().norm())
