"""admm_project_ against the best of what torch offers, and against the memory it must move."""

from __future__ import annotations

import pytest
import torch

import sparselth as sl
from sparselth.bench.ratios import Ratio
from sparselth.bench.selection import KEPT, PROBLEMS, RATIOS, projections, weights_of
from sparselth.pruning import kernel_shapes

PATTERNS = ("16x1", "1x16", "32x32", "filter", "channel", "kernel", "2:4", "kernel_shape")


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("problem", PROBLEMS)
def bench_admm_project(compare, device, problem, allocation):
    compare(
        projections(problem, allocation, 1 - KEPT, device),
        *RATIOS,
        op="admm_project_",
        device=device,
        problem=f"{problem}, {'global' if allocation == 'global' else 'per layer'}",
        sparsity=1 - KEPT,
    )


def _shaped(weights):
    """Return the weights, a flat one as a matrix, in which there is something to group."""
    return [w.view(-1, 5000) if w.dim() == 1 else w for w in weights]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("problem", PROBLEMS)
def bench_patterns(compare, device, problem, pattern):
    weights = _shaped(weights_of(problem, device))
    if pattern.startswith("kernel") and all(w.dim() == 2 for w in weights):
        pytest.skip("a matrix has no kernels")
    if pattern == "kernel_shape":
        pattern_options = {"pattern": kernel_shapes(weights), "sparsity": 1 - KEPT}
    elif pattern == "2:4":
        pattern_options = {"pattern": pattern}
    else:
        pattern_options = {"pattern": pattern, "sparsity": 1 - KEPT}

    def projection(**options):
        z, u = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        return lambda: sl.ops.admm_project_(weights, z, u, **options)

    compare(
        {
            "pattern": projection(**pattern_options),
            "element": projection(sparsity=1 - KEPT),
        },
        Ratio("single entries", ("element",), ours=("pattern",)),
        op="admm_project_ to a pattern",
        device=device,
        problem=f"{problem}, {pattern}",
        sparsity=0.5 if pattern == "2:4" else 1 - KEPT,
    )
