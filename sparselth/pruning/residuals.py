"""What an update of ADMM measures: how far the weights are from the set, and how it moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ADMMUpdate:
    """What one Z/U update measured.

    primal: |W - Z|.  dual: rho |Z_new - Z_old|.  relative: |W - Z| / |W|, small before a cut.
    primal_tolerance, dual_tolerance: what the two residuals must not exceed to stop.

    Reference: Boyd et al. 2011, section 3.3.1.
    """

    primal: float
    dual: float
    relative: float
    primal_tolerance: float
    dual_tolerance: float

    @property
    def converged(self) -> bool:
        """Whether both residuals are within their tolerances."""
        return self.primal <= self.primal_tolerance and self.dual <= self.dual_tolerance
