"""Masked convolution on lanes: what the plain op's drawn geometries do not reach."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounding import assert_equal_bits, hard_to_round
from support.strategies import NARROW, conv_cases

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


# --- stored in 16 bits --------------------------------------------------------------------------


def assert_rounded(got, exact, sums):
    """Compare with results in float64, rounded once.

    sums: of absolute values, in place of what is summed: what float32 loses of them.
    """
    denormal = 2**-25 if got.dtype == torch.float16 else 1e-30
    lost = 2**-20 * sums + torch.finfo(got.dtype).eps / 2 * exact.abs() + denormal
    assert ((got.double() - exact).abs() <= lost).all()


def in_16_bits(case, dtype, halo, grad_halo):
    """Return lanes of x and dy, and what computes the three passes exactly from them."""
    x, weight, mask, bias = case.tensors()
    x = x.to(dtype)
    weight, bias = weight.float(), None if bias is None else bias.float()
    shape = reference.masked_conv2d(x.float(), weight, mask, bias, None, *case.conv).shape
    grad = torch.randn(shape).to(dtype)
    count = lanes(dtype)
    buffers = to_lanes(x.contiguous(), count, halo), to_lanes(grad, count, grad_halo)
    return x, grad, weight, mask, bias, buffers


@pytest.mark.parametrize("dtype", NARROW)
@given(case=conv_cases(), halo=st.integers(0, 2), grad_halo=st.integers(0, 2))
@settings(max_examples=300)
def test_16_bits_are_rounded_once(dtype, case, halo, grad_halo):
    drawn = in_16_bits(case, dtype, halo, grad_halo)
    x, grad, weight, mask, bias, (x_lanes, grad_lanes) = drawn
    n, plan, conv, hw = case.batch, conv_plan(mask, case.groups), case.conv, list(case.size)
    y = ops.lanes_conv2d(x_lanes, n, halo, weight, mask, bias, plan, *conv)
    dx = ops.lanes_conv2d_grad_input(grad_lanes, n, grad_halo, weight, mask, plan, hw, *conv)
    dw = ops.lanes_conv2d_grad_weight(grad_lanes, grad_halo, x_lanes, n, halo, mask, plan, *conv)
    assert (y.dtype, dx.dtype, dw.dtype) == (dtype, dtype, torch.float32)

    def exactly(x, grad, weight, bias):
        x, grad, weight = x.double(), grad.double(), weight.double()
        return (
            reference.masked_conv2d(x, weight, mask, bias, None, *conv),
            reference.masked_conv2d_grad_input(grad, weight, mask, None, hw, *conv),
            reference.masked_conv2d_grad_weight(grad, x, mask, None, *conv),
        )

    exact = exactly(x, grad, weight, None if bias is None else bias.double())
    sums = exactly(x.abs(), grad.abs(), weight.abs(), None if bias is None else bias.abs().double())
    got = from_lanes(y, n, 0), from_lanes(dx, n, 0), dw
    for result, want, size in zip(got, exact, sums, strict=True):
        assert_rounded(result, want, size)
    for t in (y, dx):
        if n % t.shape[-1]:
            assert not t[-1:, ..., n % t.shape[-1] :].any(), "a value beyond the batch"


@given(conv_cases(batches=(1, 8, 17)), st.sampled_from(NARROW))
@settings(max_examples=100)
def test_both_gradients_at_once_are_those_of_each_alone_in_16_bits(case, dtype):
    _, _, weight, mask, _, (x, grad) = in_16_bits(case, dtype, 1, 1)
    n, plan, conv, hw = case.batch, conv_plan(mask, case.groups), case.conv, list(case.size)
    dx, dw = ops.lanes_conv2d_backward(grad, 1, x, n, 1, weight, mask, plan, *conv)
    assert torch.equal(dx, ops.lanes_conv2d_grad_input(grad, n, 1, weight, mask, plan, hw, *conv))
    alone = ops.lanes_conv2d_grad_weight(grad, 1, x, n, 1, mask, plan, *conv)
    # Strips of other heights are summed in another order.
    torch.testing.assert_close(dw, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("size", [(40, 40), (9, 200), (64, 3)], ids=str)
@pytest.mark.parametrize("conv", [CONV, ([2, 2], [1, 1], [1, 1], 1), ([1, 1], [4, 4], [4, 4], 1)])
def test_strips_in_16_bits_meet(size, conv, dtype):
    """Planes of several strips, and channels that are summed in groups."""
    n, channels = 3, 72
    x = torch.randn(n, channels, *size).to(dtype)
    weight = torch.randn(channels, channels, 3, 3)
    mask = torch.rand(weight.shape) < 0.3
    buffer = to_lanes(x, lanes(x.dtype), 0)
    y = from_lanes(ops.lanes_conv2d(buffer, n, 0, weight, mask, None, None, *conv), n, 0)
    exact = reference.masked_conv2d(x.double(), weight.double(), mask, None, None, *conv)
    assert_rounded(y, exact, exact.abs() + 100)
    grad = torch.randn(y.shape).to(dtype)
    dx, dw = ops.lanes_conv2d_backward(
        to_lanes(grad, lanes(x.dtype), 0), 0, buffer, n, 0, weight, mask, None, *conv
    )
    exact = reference.masked_conv2d_grad_input(
        grad.double(), weight.double(), mask, None, list(size), *conv
    )
    assert_rounded(from_lanes(dx, n, 0), exact, exact.abs() + 100)
    exact = reference.masked_conv2d_grad_weight(grad.double(), x.double(), mask, None, *conv)
    torch.testing.assert_close(dw.double(), exact, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_any_number_of_threads_in_16_bits(threads):
    size, batch = (8, 8), 19
    x, grad, weight, mask, plan = problem(batch, 24, size, 0.2, torch.float32)
    x, grad = (
        x[:, :, 1:-1, 1:-1].bfloat16().contiguous(),
        grad[:, :, 1:-1, 1:-1].bfloat16().contiguous(),
    )
    want = passes(oracle, batch, size, x, grad, weight, mask, plan, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = passes(ops, batch, size, x, grad, weight, mask, plan, 0)
        again = passes(ops, batch, size, x, grad, weight, mask, plan, 0)
    finally:
        torch.set_num_threads(before)
    for a, b, c in zip(got, again, want, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("dtype", NARROW)
def test_what_is_stored_in_16_bits_is_what_torch_rounds_to(dtype):
    """Ties to even, denormals kept, NaN stays NaN. As the biases of channels without weights."""
    values = hard_to_round(dtype)
    x = to_lanes(torch.ones(1, 1, 1, 1, dtype=dtype), lanes(dtype), 0)
    weight = torch.zeros(len(values), 1, 1, 1)
    conv = ([1, 1], [0, 0], [1, 1], 1)
    y = ops.lanes_conv2d(x, 1, 0, weight, torch.zeros_like(weight).bool(), values, None, *conv)
    assert_equal_bits(from_lanes(y, 1, 0).flatten(), values.to(dtype))


@pytest.mark.parametrize("flushed", [False, True])
def test_all_of_float16_is_widened_as_by_torch(flushed):
    x = torch.arange(2**16).to(torch.int16).view(torch.float16).view(-1, 1, 1, 1)
    weight, mask = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1).bool()
    conv = ([1, 1], [0, 0], [1, 1], 1)
    torch.set_flush_denormal(flushed)
    try:
        y = ops.lanes_conv2d(
            to_lanes(x, lanes(x.dtype), 0), len(x), 0, weight, mask, None, None, *conv
        )
    finally:
        torch.set_flush_denormal(False)
    # A sum begins at 0, which -0 is lost in.
    assert_equal_bits(from_lanes(y, len(x), 0), x + 0.0)


@pytest.mark.parametrize("dtype", NARROW)
def test_weights_of_16_bits_are_refused(dtype):
    x, _, weight, mask, plan = problem(3, 4, (5, 5), 0.5, torch.float32)
    with pytest.raises(RuntimeError, match=r"weight must be Float for activations of (BFlo|H)a"):
        ops.lanes_conv2d(x.to(dtype), 3, 1, weight.to(dtype), mask, None, plan, *CONV)


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
def test_no_channels_are_sums_of_nothing(dtype):
    """Going in there is the bias alone, coming out no gradient."""
    x = to_lanes(torch.ones(3, 0, 5, 5, dtype=dtype), lanes(dtype), 0)
    weight, mask = torch.ones(4, 0, 3, 3), torch.ones(4, 0, 3, 3, dtype=torch.bool)
    bias = torch.arange(4.0)
    y = ops.lanes_conv2d(x, 3, 0, weight, mask, bias, None, *CONV)
    assert torch.equal(from_lanes(y, 3, 0), bias.to(dtype).view(1, 4, 1, 1).expand(3, 4, 5, 5))
    grad = to_lanes(torch.ones(3, 0, 5, 5, dtype=dtype), lanes(dtype), 0)
    weight, mask = torch.ones(0, 4, 3, 3), torch.ones(0, 4, 3, 3, dtype=torch.bool)
    dx = ops.lanes_conv2d_grad_input(grad, 3, 0, weight, mask, None, [5, 5], *CONV)
    assert dx.shape[1] == 4
    assert not dx.any()
