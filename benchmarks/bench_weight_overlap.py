"""The counts behind R_p for five values of p, against torch's topk and against one projection."""

from __future__ import annotations

import pytest
import torch

import sparselth as sl
from sparselth.bench.ratios import Ratio
from sparselth.bench.selection import KEPT, PROBLEMS, weights_of

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)


def topk_loop(a, b, k) -> list[list[int]]:
    """Count with one topk for each tensor, layer by layer, sorted once for all p."""
    counts = []
    for left, right, most in zip(a, b, k[-1], strict=True):
        of_a, of_b = (t.flatten().abs().topk(most).indices for t in (left, right))
        rank = torch.full((left.numel(),), most, device=left.device)
        rank[of_b] = torch.arange(most, device=left.device)
        layer = len(counts)
        counts.append([int((rank[of_a[: n[layer]]] < n[layer]).sum()) for n in k])
    return counts


@pytest.mark.parametrize("problem", PROBLEMS)
def bench_weight_overlap(compare, device, problem):
    a, b = weights_of(problem, device), weights_of(problem, device)
    k = [[round(p * w.numel()) for w in a] for p in SHARES]
    kept = [round(KEPT * w.numel()) for w in a]
    z, u = ([torch.zeros_like(w) for w in a] for _ in range(2))
    compare(
        {
            "overlap": lambda: sl.ops.weight_overlap(a, b, k),
            "topk": lambda: topk_loop(a, b, k),
            "projection": lambda: sl.ops.admm_project_(a, z, u, k=kept),
        },
        Ratio("topk for each layer", ("topk",), ours=("overlap",)),
        Ratio("one projection", ("projection",), ours=("overlap",)),
        op="weight_overlap for five p",
        device=device,
        problem=problem,
        sparsity=0.0,
    )
