"""Weights in channels_last: read as they lie, their gradients left so, the same bits either way."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import FLOATS, conv_cases

from sparselth.ops.contract import compute_dtype, memory_format
from sparselth.ops.lanes.layout import lanes, to_lanes
from sparselth.ops.libraries import has_kernel
from sparselth.ops.plan import conv_plan
from sparselth.ops.reference import lanes as oracle

pytestmark = pytest.mark.skipif(
    not has_kernel("lanes_conv2d", "cpu"), reason="the compiled kernels are not there"
)

ops = torch.ops.sparselth


def all_passes(x, grad, weight, rest, n, hw):
    """Return what every op that reads a weight makes of it; dw of the two that give one, last."""
    mask, plan, *conv = rest
    like_that = (None, None, True, math.nan)
    both = ops.lanes_conv2d_backward(grad, 1, x, n, 1, weight, *rest)
    fused = ops.lanes_fused_conv2d_backward(grad, 1, x, n, 1, *like_that, weight, *rest)
    y, *_ = ops.lanes_fused_conv2d(
        *(x, n, 1, None, None, None, 0, None, None, True, math.nan, False),
        *(weight, mask, None, plan, *conv, False),
    )
    forward = ops.lanes_conv2d(x, n, 1, weight, mask, None, plan, *conv)
    grad_input = ops.lanes_conv2d_grad_input(grad, n, 1, weight, mask, plan, hw, *conv)
    return y, forward, grad_input, both[0], fused[0], both[1], fused[1]


@given(conv_cases(batches=(1, 5, 17)), st.sampled_from(FLOATS))
@settings(max_examples=150)
def test_every_pass_gives_the_same_bits(case, dtype):
    x, weight, mask, _ = case.tensors()
    shape = torch.nn.functional.conv2d(x, weight, None, *case.conv).shape
    if 0 in (*shape, *x.shape, *weight.shape):
        return
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(case.seed))
    x, grad = (to_lanes(t.to(dtype).contiguous(), lanes(dtype), 1) for t in (x, grad))
    weight = weight.to(compute_dtype(dtype)).contiguous()
    rest = (mask, conv_plan(mask, case.groups) if case.plan else None, *case.conv)
    turned = weight.contiguous(memory_format=torch.channels_last)
    want = all_passes(x, grad, weight, rest, case.batch, list(case.size))
    got = all_passes(x, grad, turned, rest, case.batch, list(case.size))
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
    layout = memory_format(turned) if case.groups == 1 else torch.contiguous_format
    _, dw = oracle.lanes_conv2d_backward(grad, 1, x, case.batch, 1, turned, *rest)
    assert got[-1].stride() == got[-2].stride() == dw.stride()
    assert dw.is_contiguous(memory_format=layout)


@given(conv_cases(batches=(1, 5)), st.sampled_from(FLOATS))
@settings(max_examples=60)
def test_ordinary_images_give_the_same_bits(case, dtype):
    x, weight, mask, bias = case.tensors()
    x, weight = x.to(dtype), weight.to(dtype).contiguous()
    bias = None if bias is None else bias.to(dtype)
    plan = conv_plan(mask, case.groups) if case.plan else None
    turned = weight.contiguous(memory_format=torch.channels_last)
    want, got = (ops.masked_conv2d(x, w, mask, bias, plan, *case.conv) for w in (weight, turned))
    assert torch.equal(got, want)
    rest = (mask, plan, list(case.size), *case.conv)
    grads = [ops.masked_conv2d_grad_input(want, w, *rest) for w in (weight, turned)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("where", ["at", "code"])
def test_a_plan_that_leads_outside_is_refused(where):
    mask = torch.rand(4, 3, 3, 3) < 0.5
    weight = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    x = to_lanes(torch.randn(2, 3, 8, 8), lanes(torch.float32), 1)
    plan = conv_plan(mask)
    nnz = int(mask.sum())
    sections = [8 + 5, 8 + 5 + nnz, 8 + 5 + 2 * nnz]
    (at, code) = pairwise(sections)
    first, last = at if where == "at" else code
    plan[first:last] = 2**31 - 1
    conv = ([1, 1], [1, 1], [1, 1], 1)
    with pytest.raises(RuntimeError, match="plan"):
        ops.lanes_conv2d(x, 2, 1, weight, mask, None, plan, *conv)
