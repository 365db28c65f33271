"""Masked convolution on lanes: what the plain op's drawn geometries do not reach."""

import pytest
import torch
from hypothesis import given, settings
from support.strategies import conv_cases

from sparselth.ops import reference
from sparselth.ops.lanes.layout import from_lanes, lanes, to_lanes
from sparselth.ops.libraries import has_kernel
from sparselth.ops.plan import conv_plan
from sparselth.ops.reference import lanes as oracle

pytestmark = pytest.mark.skipif(
    not has_kernel("lanes_conv2d", "cpu"), reason="the compiled kernels are not there"
)

ops = torch.ops.sparselth
CONV = ([1, 1], [1, 1], [1, 1], 1)


def problem(batch, channels, size, density, dtype=torch.float64, halo=1):
    x = torch.randn(batch, channels, *size, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, dtype=dtype)
    mask = torch.rand(weight.shape) < density
    grad = torch.randn(batch, channels, *size, dtype=dtype)
    buffers = [to_lanes(t, lanes(dtype), halo) for t in (x, grad)]
    return *buffers, weight * mask, mask, conv_plan(mask)


def passes(impl, batch, size, x, grad, weight, mask, plan, halo=1):
    return (
        impl.lanes_conv2d(x, batch, halo, weight, mask, weight[:, 0, 0, 0], plan, *CONV),
        impl.lanes_conv2d_grad_input(grad, batch, halo, weight, mask, plan, list(size), *CONV),
        impl.lanes_conv2d_grad_weight(grad, halo, x, batch, halo, mask, plan, *CONV),
        *impl.lanes_conv2d_backward(grad, halo, x, batch, halo, weight, mask, plan, *CONV),
    )


# 72 channels are summed in groups. Each size takes another tile, and some a larger one where there
# are few channels or most of the weights.
@pytest.mark.parametrize(
    "size",
    [
        *((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (4, 2), (4, 4), (1, 9), (7, 7)),
        *((5, 14), (3, 33), (2, 8), (1, 16), (3, 14)),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("channels", "halo", "density"),
    [(72, 0, 0.1), (72, 1, 0.1), (72, 2, 0.1), (72, 1, 0.3), (6, 1, 0.3)],
)
def test_every_tile_matches_the_oracle(size, channels, halo, density):
    batch = 2 * lanes(torch.float64) + 3
    arguments = problem(batch, channels, size, density, halo=halo)
    got = passes(ops, batch, size, *arguments, halo)
    want = passes(oracle, batch, size, *arguments, halo)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)


@given(conv_cases())
@settings(max_examples=150)
def test_both_gradients_at_once_are_those_of_each_alone(case):
    x, weight, mask, _ = case.tensors()
    shape = reference.masked_conv2d(x, weight, mask, None, None, *case.conv).shape
    grad = torch.randn(shape, dtype=torch.float64)
    buffer, grad = (to_lanes(t.contiguous(), lanes(t.dtype), 1) for t in (x, grad))
    n, plan, conv = case.batch, conv_plan(mask, case.groups), case.conv
    dx, dw = ops.lanes_conv2d_backward(grad, 1, buffer, n, 1, weight, mask, plan, *conv)
    hw = list(case.size)
    assert torch.equal(dx, ops.lanes_conv2d_grad_input(grad, n, 1, weight, mask, plan, hw, *conv))
    assert torch.equal(dw, ops.lanes_conv2d_grad_weight(grad, 1, buffer, n, 1, mask, plan, *conv))


def test_lanes_beyond_the_batch_stay_zero():
    x, grad, *rest = problem(3, 8, (5, 5), 0.5)
    y, dx, *_ = passes(ops, 3, (5, 5), x, grad, *rest)
    for t in (y, dx):
        assert not t[..., 3:].any()


def test_two_runs_are_equal_bit_for_bit():
    size, batch = (9, 9), 40
    arguments = problem(batch, 24, size, 0.2, torch.float32)
    first = passes(ops, batch, size, *arguments)
    for _ in range(3):
        for a, b in zip(first, passes(ops, batch, size, *arguments), strict=True):
            assert torch.equal(a, b)


def test_non_finite_values_spread_through_kept_weights_only():
    x = torch.zeros(2, 2, 3, 3)
    x[0, 0, 1, 1], x[1, 1, 1, 1] = torch.inf, torch.nan
    weight = torch.zeros(2, 2, 3, 3)
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    mask[0, 0, 1, 1] = True  # kept, and zero: 0 * inf is NaN
    buffer = to_lanes(x, lanes(x.dtype), 1)
    y = from_lanes(ops.lanes_conv2d(buffer, 2, 1, weight, mask, None, None, *CONV), 2, 0)
    assert y[0, 0, 1, 1].isnan()
    y[0, 0, 1, 1] = 0
    assert not y.any()


def test_one_block_and_many_threads_share_the_channels():
    threads = torch.get_num_threads()
    size, batch = (4, 4), 5
    arguments = problem(batch, 64, size, 0.3)
    try:
        torch.set_num_threads(4)
        got = passes(ops, batch, size, *arguments)
    finally:
        torch.set_num_threads(threads)
    want = passes(oracle, batch, size, *arguments)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)
