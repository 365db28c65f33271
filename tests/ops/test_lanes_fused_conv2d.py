"""Convolutions that compute their input as they read it, against the ops one after the other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import FLOATS, conv_cases

from sparselth.errors import SparselthError
from sparselth.ops.contract import compute_dtype
from sparselth.ops.contract.arguments import checked
from sparselth.ops.lanes.layout import from_lanes, lanes, to_lanes
from sparselth.ops.libraries import has_kernel
from sparselth.ops.plan import conv_plan
from sparselth.ops.reference import lanes_fused as oracle

pytestmark = pytest.mark.skipif(
    not has_kernel("lanes_fused_conv2d", "cpu"), reason="the compiled kernels are not there"
)

ops = torch.ops.sparselth
CONV = ([1, 1], [1, 1], [1, 1], 1)
NONE = math.nan


def close(got, want, dtype):
    """Compare sums of some hundred products; 16 bits may fall on either side of a tie."""
    eps = torch.finfo(compute_dtype(dtype)).eps
    rounding = torch.finfo(dtype).eps if dtype.itemsize < 4 else 0.0
    scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
    torch.testing.assert_close(got, want, rtol=rounding + 64 * eps, atol=256 * eps * scale)


def no_value_beyond(batch, *tensors):
    for t in tensors:
        if t.numel() and batch % t.shape[-1]:
            assert not t[-1:, ..., batch % t.shape[-1] :].any(), "a value beyond the batch"


def problem(case, dtype, halos):
    """Return a, b, values per channel, and what a convolution takes, of a drawn geometry."""
    x, weight, mask, bias = case.tensors()
    generator = torch.Generator().manual_seed(case.seed)
    second = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    a, b = (
        to_lanes(t.to(dtype).contiguous(), lanes(dtype), halo)
        for t, halo in zip((x, second), halos, strict=True)
    )
    channel = torch.randn(4, x.shape[1], generator=generator, dtype=x.dtype)
    computed = compute_dtype(dtype)
    bias = None if bias is None else bias.to(computed)
    plan = conv_plan(mask, case.groups) if case.plan else None
    return a, b, channel.to(computed), (weight.to(computed), mask, bias, plan, *case.conv)


CASES = conv_cases(batches=(1, 2, 5, 17))
GIVEN = st.tuples(*[st.booleans()] * 5)


@given(
    case=CASES,
    dtype=st.sampled_from(FLOATS),
    halos=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    given_=GIVEN,
    relu=st.booleans(),
    upper=st.sampled_from([NONE, 0.75]),
    keep=st.booleans(),
    moments=st.booleans(),
)
@settings(max_examples=300)
def test_forward_matches_the_oracle(case, dtype, halos, given_, relu, upper, keep, moments):
    a, b, channel, conv = problem(case, dtype, halos)
    a_scale, a_shift, b_scale, b_shift, b = (
        value if is_given else None for value, is_given in zip((*channel, b), given_, strict=True)
    )
    n = case.batch
    arguments = (a, n, halos[0], a_scale, a_shift, b, halos[1], b_scale, b_shift, relu, upper, keep)
    got = ops.lanes_fused_conv2d(*arguments, *conv, moments)
    want = expected(got[1], arguments, conv, moments)
    close(from_lanes(got[0], n, 0), from_lanes(want[0], n, 0), dtype)
    no_value_beyond(n, got[0], got[1])
    assert got[1].dtype == dtype
    assert got[1].shape == want[1].shape
    if keep:
        close(from_lanes(got[1], n, 0), from_lanes(want[1], n, 0), dtype)
    assert got[2].shape == want[2].shape
    if moments:
        assert_moments(got[2], want[2], want[0], dtype)


def expected(kept, terms, conv, moments):
    """Return the oracle's results; y is that of `kept`, the x that was, where it was.

    16 bits of x may fall on either side of a tie, which a sum over x does not forgive.
    """
    y, x, found = oracle.lanes_fused_conv2d(*terms, *conv, moments)
    if kept.numel():
        as_it_lies = (kept, terms[1], 0, None, None, None, 0, None, None, False, NONE, True)
        y, _, found = oracle.lanes_fused_conv2d(*as_it_lies, *conv, moments)
    return y, x, found


def assert_moments(got, want, y, dtype):
    """Compare means and squared deviations by the size of the values they are of."""
    eps = 64 * torch.finfo(compute_dtype(dtype)).eps
    size = y.double().abs().max().item() + 1e-30
    count = y.numel() / y.shape[1]
    assert ((got[:, 0] - want[:, 0]).abs() <= eps * size).all()
    assert (got[:, 1] >= 0).all()
    assert ((got[:, 1] - want[:, 1]).abs() <= eps * size * size * count).all()


@given(
    case=CASES,
    dtype=st.sampled_from(FLOATS),
    halos=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    given_=GIVEN,
    relu=st.booleans(),
    upper=st.sampled_from([NONE, 0.75]),
)
@settings(max_examples=300)
def test_backward_matches_the_oracle(case, dtype, halos, given_, relu, upper):
    a, _, channel, (weight, mask, _, plan, *conv) = problem(case, dtype, halos)
    a_scale, a_shift, *_ = (
        value if is_given else None for value, is_given in zip(channel, given_[:4], strict=True)
    )
    n, generator = case.batch, torch.Generator().manual_seed(case.seed)
    y = oracle.lanes_fused_conv2d(
        *(a, n, halos[0], None, None, None, 0, None, None, False, NONE, False),
        *(weight, mask, None, None, *conv, False),
    )[0]
    grad = torch.randn(from_lanes(y, n, 0).shape, generator=generator, dtype=torch.float64)
    grad = to_lanes(grad.to(dtype), lanes(dtype), halos[1])
    arguments = (grad, halos[1], a, n, halos[0], a_scale, a_shift, relu, upper)
    got = ops.lanes_fused_conv2d_backward(*arguments, weight, mask, plan, *conv)
    want = oracle.lanes_fused_conv2d_backward(*arguments, weight, mask, plan, *conv)
    close(from_lanes(got[0], n, 0), from_lanes(want[0], n, 0), dtype)
    no_value_beyond(n, got[0])
    assert got[1].dtype == compute_dtype(dtype)
    assert not got[1][~mask].any()
    pixels = max(1, case.batch * case.size[0] * case.size[1])
    eps = 64 * torch.finfo(compute_dtype(dtype)).eps
    torch.testing.assert_close(got[1], want[1], rtol=eps, atol=eps * pixels)


def residual(batch, channels, size, dtype=torch.float32, density=0.3):
    """Return the arguments of a residual sum that is kept, with moments: all there is."""
    a, b = (
        to_lanes(torch.randn(batch, channels, *size).to(dtype), lanes(dtype), 0) for _ in range(2)
    )
    computed = compute_dtype(dtype)
    c = torch.randn(3, channels, dtype=computed)
    weight = torch.randn(channels, channels, 3, 3, dtype=computed)
    mask = torch.rand(weight.shape) < density
    terms = (a, batch, 0, c[0], c[1], b, 0, c[2], None, True, NONE, True)
    return terms, (weight, mask, None, conv_plan(mask))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [(40, 40), (9, 200), (64, 3), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "conv", [CONV, ([2, 2], [1, 1], [1, 1], 1), ([3, 1], [4, 4], [4, 4], 1)], ids=str
)
def test_strips_meet(size, conv, dtype):
    """Planes of several strips: every row is kept once, each tile counted once."""
    terms, rest = residual(3, 40, size, dtype)
    got = ops.lanes_fused_conv2d(*terms, *rest, *conv, True)
    want = expected(got[1], terms, (*rest, *conv), True)
    for g, w in zip(got[:2], want[:2], strict=True):
        close(from_lanes(g, 3, 0), from_lanes(w, 3, 0), dtype)
    assert_moments(got[2], want[2], want[0], dtype)


def test_rows_that_no_tap_reads_are_kept_too():
    a = to_lanes(torch.randn(2, 3, 11, 5), lanes(torch.float32), 0)
    weight = torch.ones(2, 3, 1, 1)
    conv = ([4, 4], [0, 0], [1, 1], 1)
    terms = (a, 2, 0, None, None, None, 0, None, None, True, NONE, True)
    _, x, _ = ops.lanes_fused_conv2d(*terms, weight, weight.bool(), None, None, *conv, False)
    assert torch.equal(from_lanes(x, 2, 0), from_lanes(a, 2, 0).relu())


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_moments_do_not_depend_on_threads(threads):
    """Strips and bundles are combined in one order, and parts of channels do not mix."""
    terms, rest = residual(19, 24, (16, 16), density=0.2)
    before = torch.get_num_threads()
    results = []
    for count in (2, threads):
        torch.set_num_threads(count)
        try:
            results.append(ops.lanes_fused_conv2d(*terms, *rest, *CONV, True))
        finally:
            torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_moments_far_from_zero_do_not_cancel():
    x = torch.full((5, 1, 30, 30), 1.0) + 1e-3 * torch.randn(5, 1, 30, 30)
    a = to_lanes(x, lanes(x.dtype), 0)
    weight = torch.full((2, 1, 1, 1), 1000.0)
    conv = ([1, 1], [0, 0], [1, 1], 1)
    terms = (a, 5, 0, None, None, None, 0, None, None, False, NONE, False)
    *_, moments = ops.lanes_fused_conv2d(*terms, weight, weight.bool(), None, None, *conv, True)
    want = (1000 * x.double()).var(correction=0) * x.numel()
    assert moments[0, 1].item() == pytest.approx(want.item(), rel=1e-3)


def test_nothing_beyond_the_batch_enters_sums():
    """relu(shift) is not zero in lanes that hold no image, nor is a bias."""
    a = to_lanes(torch.zeros(3, 1, 2, 2), lanes(torch.float32), 0)
    one = torch.ones(1)
    weight = torch.ones(1, 1, 1, 1)
    conv = ([1, 1], [0, 0], [1, 1], 1)
    terms = (a, 3, 0, one, one, None, 0, None, None, True, NONE, True)
    y, x, moments = ops.lanes_fused_conv2d(*terms, weight, weight.bool(), one, None, *conv, True)
    no_value_beyond(3, y, x)
    assert moments.tolist() == [[2.0, 0.0]]


def test_empty_weights_and_other_images_are_refused():
    terms, (weight, mask, bias, plan) = residual(3, 4, (5, 5))
    with pytest.raises(RuntimeError, match="not empty"):
        ops.lanes_fused_conv2d(*terms, weight[:0], mask[:0], bias, None, *CONV, False)
    kernel = checked("lanes_fused_conv2d", oracle.lanes_fused_conv2d)
    for _ in range(2):
        with pytest.raises(SparselthError, match="not empty"):
            kernel(*terms, weight[:0], mask[:0], bias, None, *CONV, False)
    other = to_lanes(torch.zeros(3, 4, 5, 6), lanes(torch.float32), 0)
    with pytest.raises(RuntimeError, match="one shape"):
        ops.lanes_fused_conv2d(
            *terms[:5], other, *terms[6:], weight, mask, bias, plan, *CONV, False
        )
    with pytest.raises(RuntimeError, match="values per channel"):
        ops.lanes_fused_conv2d(
            *terms[:3], weight[0, :3, 0, 0], *terms[4:], weight, mask, bias, plan, *CONV, False
        )
