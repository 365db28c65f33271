"""masked_linear against dense: forward and backward through autograd, fp32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from problems import SPARSITIES
from ratios import Ratio

import sparselth as sl
from sparselth.ops.plan import conv_plan


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("features", [512, 2048])
def bench_masked_linear(compare, features, sparsity):
    x = torch.randn(128, features, requires_grad=True)
    weight = torch.randn(features, features)
    mask = sl.ops.topk_mask(torch.rand_like(weight), round((1 - sparsity) * weight.numel()))
    weight = (weight * mask).requires_grad_()
    plan, grad = conv_plan(mask), torch.randn(128, features)

    def step(call):
        return lambda: torch.autograd.grad(call(), (x, weight), grad)

    compare(
        {
            "sparse": step(lambda: sl.ops.masked_linear(x, weight, mask, plan=plan)),
            "dense": step(lambda: F.linear(x, weight)),
        },
        Ratio("dense fp32", ("dense",)),
        op="masked_linear",
        problem=f"N128-{features}x{features}",
        sparsity=sparsity,
    )
