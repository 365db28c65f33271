"""Compaction against the oracle: masks with empty filters and channels, and without."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import conv_cases

from sparselth.ops import reference
from sparselth.ops.gpu import compaction


@given(conv_cases(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=150)
def test_all_passes_match_the_oracle(case, outs, ins):
    case = dataclasses.replace(case, groups=1, batch=max(case.batch, 1))
    x, weight, mask, bias = case.tensors()
    mask &= (torch.rand(mask.shape[0]) < outs).view(-1, 1, 1, 1)
    mask &= (torch.rand(mask.shape[1]) < ins).view(1, -1, 1, 1)
    kernel, conv = compaction.Compacted.for_mask(mask, 1), case.conv
    y = kernel.forward(x, weight, mask, bias, conv)
    want = reference.masked_conv2d(x, weight, mask, bias, None, *case.conv)
    torch.testing.assert_close(y, want, rtol=1e-10, atol=1e-10)
    grad, hw = torch.randn_like(want), list(case.size)
    dx = kernel.grad_input(grad, weight, mask, hw, conv)
    want = reference.masked_conv2d_grad_input(grad, weight, mask, None, hw, *case.conv)
    torch.testing.assert_close(dx, want, rtol=1e-10, atol=1e-10)
    dw = kernel.grad_weight(grad, x, mask, conv)
    want = reference.masked_conv2d_grad_weight(grad, x, mask, None, *case.conv)
    torch.testing.assert_close(dw, want, rtol=1e-10, atol=1e-10)
    assert not dw[~mask].any()


def test_what_is_left():
    mask = torch.zeros(8, 6, 3, 3, dtype=torch.bool)
    mask[2:6, 1:4, 1] = True
    found = compaction.find_compaction(mask)
    assert found.outs.tolist() == [2, 3, 4, 5]
    assert found.ins.tolist() == [1, 2, 3]
    assert found.density == pytest.approx(12 / 48)
    assert found.weight(torch.ones(8, 6, 3, 3), mask).sum() == 12 * 3
    full = compaction.find_compaction(torch.ones_like(mask))
    assert full.outs is None
    assert full.ins is None
    assert full.density == 1.0
