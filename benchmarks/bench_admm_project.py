"""admm_project_ against the best of what torch offers, and against the memory it must move."""

from __future__ import annotations

import pytest
import torch
from ratios import Ratio
from selection import KEPT, PROBLEMS, THRESHOLDS, memory_floor, project_by, weights_of

import sparselth as sl


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("problem", PROBLEMS)
def bench_admm_project(compare, device, problem, allocation):
    weights = weights_of(problem, device)
    sizes = [w.numel() for w in weights]
    pooled = allocation == "global"
    counts = [round(KEPT * n) for n in ([sum(sizes)] if pooled else sizes)]

    def projection(call):
        z, u = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        return lambda: call(weights, z, u, counts)

    def fused(weights, z, u, k):
        sl.ops.admm_project_(weights, z, u, k=k, allocation=allocation)

    compare(
        {
            "fused": projection(fused),
            **{name: projection(project_by(f, pooled)) for name, f in THRESHOLDS.items()},
            "memory": memory_floor(sum(sizes), device),
        },
        Ratio("the best of kthvalue, topk and sort", tuple(THRESHOLDS), ours=("fused",)),
        Ratio("the memory it must move", ("memory",), ours=("fused",)),
        op="admm_project_",
        device=device,
        problem=f"{problem}, {'global' if pooled else 'per layer'}",
        sparsity=1 - KEPT,
    )
