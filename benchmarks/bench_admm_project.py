"""admm_project_ against the loop over layers that tools of the field use, at 90 % sparsity."""

from __future__ import annotations

import pytest
import torch
from ratios import Ratio

import sparselth as sl
from sparselth.models import build
from sparselth.ops.reference import admm_project_ as oracle
from sparselth.pruning import prunable_parameters


def weights_of(problem: str, device: str) -> list[torch.Tensor]:
    if problem == "flat-25M":
        return [torch.randn(25_000_000, device=device)]
    model = build(problem, num_classes=10, in_channels=3)
    return [torch.randn_like(p, device=device) for p in prunable_parameters(model).values()]


def torch_loop(weights, z, u, counts) -> None:
    """Do the projection layer by layer with kthvalue, the usual way (keeps all ties)."""
    for w, z_l, u_l, k in zip(weights, z, u, counts, strict=True):
        v = w + u_l
        magnitude = v.abs()
        cut = magnitude.flatten().kthvalue(v.numel() - k + 1).values
        z_l.copy_(torch.where(magnitude >= cut, v, 0.0))
        u_l.copy_(v - z_l)


@pytest.mark.parametrize("problem", ["resnet20", "vgg11", "flat-25M"])
def bench_admm_project(compare, device, problem):
    weights = weights_of(problem, device)
    counts = [w.numel() // 10 for w in weights]

    def projection(call):
        z, u = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        return lambda: call(weights, z, u)

    compare(
        {
            "fused": projection(lambda w, z, u: sl.ops.admm_project_(w, z, u, k=counts)),
            "torch loop": projection(lambda w, z, u: torch_loop(w, z, u, counts)),
            "reference": projection(lambda w, z, u: oracle(w, z, u, counts, False)),
        },
        Ratio("the best torch loop", ("torch loop", "reference"), ours=("fused",)),
        op="admm_project_",
        device=device,
        problem=problem,
        sparsity=0.9,
    )
