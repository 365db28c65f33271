"""masked_linear and dense: forward and backward through autograd, fp32, batch 128."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..ops import masked_linear, topk_mask
from ..ops.plan import conv_plan
from .ratios import Ratio

FEATURES = (512, 2048)
RATIOS = (Ratio("dense fp32", ("dense",)),)


def name_of(features: int) -> str:
    """Return what results call the layer."""
    return f"N128-{features}x{features}"


def candidates(features: int, sparsity: float) -> dict[str, Callable[[], object]]:
    """Return ours and torch's, with a random mask, which torch's weight was multiplied with."""
    x = torch.randn(128, features, requires_grad=True)
    weight = torch.randn(features, features)
    mask = topk_mask(torch.rand_like(weight), round((1 - sparsity) * weight.numel()))
    assert isinstance(mask, torch.Tensor)
    weight = (weight * mask).requires_grad_()
    plan, grad = conv_plan(mask), torch.randn(128, features)

    def step(call: Callable[[], torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(), (x, weight), grad)

    return {
        "sparse": step(lambda: masked_linear(x, weight, mask, plan=plan)),
        "dense": step(lambda: F.linear(x, weight)),
    }
