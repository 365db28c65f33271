"""admm_project_ against the best of what torch offers, and against the memory it must move."""

from __future__ import annotations

import pytest
import torch
from ratios import Ratio
from selection import (
    CUDA_BYTES,
    KEPT,
    PROBLEMS,
    THRESHOLDS,
    device_copy,
    memory_floor,
    project_by,
    weights_of,
)

import sparselth as sl
from sparselth.pruning import kernel_shapes

PATTERNS = ("16x1", "1x16", "32x32", "filter", "channel", "kernel", "2:4", "kernel_shape")


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("problem", PROBLEMS)
def bench_admm_project(compare, device, problem, allocation):
    weights = weights_of(problem, device)
    sizes = [w.numel() for w in weights]
    global_ = allocation == "global"
    counts = [round(KEPT * n) for n in ([sum(sizes)] if global_ else sizes)]

    def projection(call):
        z, u = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        return lambda: call(weights, z, u, counts)

    def fused(weights, z, u, k):
        sl.ops.admm_project_(weights, z, u, k=k, allocation=allocation)

    compare(
        {
            "fused": projection(fused),
            **{name: projection(project_by(f, global_)) for name, f in THRESHOLDS.items()},
            "memory": memory_floor(sum(sizes), device),
            **({"copy": device_copy(sum(sizes), CUDA_BYTES)} if device == "cuda" else {}),
        },
        Ratio("the best of kthvalue, topk and sort", tuple(THRESHOLDS), ours=("fused",)),
        Ratio("the memory it must move", ("memory",), ours=("fused",)),
        Ratio("a device copy of the bytes its passes move", ("copy",), ours=("fused",)),
        op="admm_project_",
        device=device,
        problem=f"{problem}, {'global' if global_ else 'per layer'}",
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
