"""masked_conv2d against dense convolution: forward and backward through autograd, fp32.

Baseline: oneDNN through torch with the mask multiplied into the weight beforehand (so its cost
is not counted against dense), the better of contiguous and channels_last. `reference` is the same
with the mask applied in the step, as `use_backend("reference")` does.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from problems import LAYERS, SPARSITIES

import sparselth as sl
from sparselth.ops.plan import conv_plan


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def bench_masked_conv2d(compare, layer, sparsity):
    x = torch.randn(layer.batch, layer.channels, layer.size, layer.size)
    weight = torch.randn(layer.channels, layer.channels // layer.groups, layer.kernel, layer.kernel)
    mask = sl.ops.topk_mask(torch.rand_like(weight), round((1 - sparsity) * weight.numel()))
    options = {"stride": layer.stride, "padding": layer.kernel // 2, "groups": layer.groups}
    plan = conv_plan(mask, layer.groups)
    shape = F.conv2d(x, weight, **options).shape
    grad = torch.randn(shape)

    def step(call, x, weight, grad):
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        return lambda: torch.autograd.grad(call(x, weight), (x, weight), grad)

    def sparse(x, w):
        return sl.ops.masked_conv2d(x, w, mask, plan=plan, **options)

    def dense(x, w):
        return F.conv2d(x, w, **options)

    def masked_dense(x, w):
        return F.conv2d(x, torch.where(mask, w, 0.0), **options)

    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, weight * mask, grad)]
    compare(
        {
            "sparse": step(sparse, x, weight, grad),
            "dense": step(dense, x, weight * mask, grad),
            "dense channels_last": step(dense, *last),
            "reference": step(masked_dense, x, weight, grad),
        },
        baselines=("dense", "dense channels_last"),
        op="masked_conv2d",
        problem=str(layer),
        sparsity=sparsity,
    )
