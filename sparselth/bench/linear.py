"""masked_linear and dense: forward and backward through autograd, batch 128.

In bf16 as under autocast: activations and their gradients are bfloat16, the weight and its gradient
float32. Ours reads the weight as it is; dense rounds it in every step, as torch's autocast does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import masked_linear, topk_mask
from ..ops.autograd.linear import MaskedLinear
from ..ops.plan import conv_plan
from .ratios import Ratio

FEATURES = (512, 2048)
RATIOS = (
    Ratio("dense fp32", ("dense",)),
    Ratio("dense bf16", ("dense bf16",)),
    Ratio("dense bf16, ours in bf16", ("dense bf16",), ours=("sparse bf16",)),
)


def name_of(features: int) -> str:
    """Return what results call the layer."""
    return f"N128-{features}x{features}"


def candidates(features: int, sparsity: float) -> dict[str, Callable[[], object]]:
    """Return ours and torch's, with a random mask, which torch's weight was multiplied with."""
    x, grad = torch.randn(128, features), torch.randn(128, features)
    weight = torch.randn(features, features)
    mask = topk_mask(torch.rand_like(weight), round((1 - sparsity) * weight.numel()))
    assert isinstance(mask, Tensor)
    weight = (weight * mask).requires_grad_()
    plan = conv_plan(mask)

    def step(call: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[], object]:
        rows, back = x.to(dtype).requires_grad_(), grad.to(dtype)
        return lambda: torch.autograd.grad(call(rows), (rows, weight), back)

    def under_autocast(rows: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.linear(rows, weight)

    narrow = torch.bfloat16
    return {
        "sparse": step(lambda rows: masked_linear(rows, weight, mask, plan=plan), torch.float32),
        "dense": step(lambda rows: F.linear(rows, weight), torch.float32),
        # What the module calls: the public function casts the weight as autocast would.
        "sparse bf16": step(lambda r: MaskedLinear.apply(r, weight, None, mask, plan), narrow),
        "dense bf16": step(under_autocast, narrow),
    }
