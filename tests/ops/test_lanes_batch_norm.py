"""Batch norm and the pointwise maps on activations in lanes, against the oracle."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import NARROW, assert_lanes, lane_cases

from sparselth.ops.lanes.layout import from_lanes, lanes, to_lanes
from sparselth.ops.libraries import has_kernel
from sparselth.ops.reference import lanes_layers as oracle

pytestmark = pytest.mark.skipif(
    not has_kernel("lanes_batch_norm", "cpu"), reason="the compiled kernels are not there"
)

ops = torch.ops.sparselth


def tolerance(dtype, count=1):
    return 16 * torch.finfo(dtype).eps * max(1, count) ** 0.5


def rounding(dtype):
    """Where two results of 16 bits lie on either side of a tie, they are a step apart."""
    return torch.finfo(dtype).eps if dtype.itemsize < 4 else 0.0


# Of a ReLU: none, or one that values reach.
NONE = float("nan")
UPPER = st.sampled_from([NONE, 0.75])


def moments(x, batch, halo):
    """Return mean and biased variance."""
    nothing = [None] * 4
    mean, invstd, *_ = ops.lanes_batch_norm(x, batch, halo, *nothing, 0.0, 0.0, None)
    return mean, invstd**-2


@pytest.mark.filterwarnings("ignore:var_mean")  # batch 0
@given(case=lane_cases(), affine=st.booleans(), running=st.booleans())
@settings(max_examples=150)
def test_batch_norm_matches_the_oracle(case, affine, running):
    if case.batch * case.size[0] * case.size[1] == 1:
        return  # no variance without bias; refused above the op
    (x,) = case.operands(1)
    c = case.per_channel()
    channel = [c, c + 1] if affine else [None, None]
    statistics = [c.clone(), c.abs()] if running else [None, None]
    copies = [t if t is None else t.double() for t in statistics]
    weights = [t if t is None else t.double() for t in channel]
    got = ops.lanes_batch_norm(x, case.batch, case.halos[0], *channel, *statistics, 0.3, 1e-3, None)
    want = oracle.lanes_batch_norm(
        x.double(), case.batch, case.halos[0], *weights, *copies, 0.3, 1e-3, None
    )
    eps = tolerance(case.computed)
    close = {"rtol": eps, "atol": 8 * eps, "equal_nan": True}
    for a, b in zip((*got, *statistics), (*want, *copies), strict=True):
        if a is not None:
            assert a.dtype == case.computed
            torch.testing.assert_close(a.double(), b, **close)


@given(
    case=lane_cases(),
    given_=st.tuples(*[st.booleans()] * 5),
    relu=st.booleans(),
    upper=UPPER,
    halo=st.integers(0, 2),
)
@settings(max_examples=200)
def test_scale_add_relu_matches_the_oracle(case, given_, relu, upper, halo):
    a, b = case.operands(2)
    c = case.per_channel()
    a_scale, a_shift, b, b_scale, b_shift = (
        value if is_given else None
        for value, is_given in zip((c, c + 1, b, c - 1, 2 * c), given_, strict=True)
    )
    arguments = (a, case.batch, case.halos[0], a_scale, a_shift, b, case.halos[1])
    arguments += (b_scale, b_shift, relu, upper, halo)
    got, want = ops.lanes_scale_add_relu(*arguments), oracle.lanes_scale_add_relu(*arguments)
    eps = rounding(case.dtype) + tolerance(case.computed)
    assert_lanes(got, want, case.batch, halo, rtol=eps, atol=eps)


@given(
    case=lane_cases(),
    gate=st.booleans(),
    upper=UPPER,
    other=st.booleans(),
    halo=st.integers(0, 2),
)
@settings(max_examples=100)
def test_relu_backward_add_matches_the_oracle(case, gate, upper, other, halo):
    grad, gates, others = case.operands(3)
    arguments = [grad, case.halos[0], gates if gate else None, case.halos[1], upper]
    arguments += [others if other else None, case.halos[2]]
    got = ops.lanes_relu_backward_add(*arguments, halo)
    want = oracle.lanes_relu_backward_add(*arguments, halo)
    assert_lanes(got, want, case.batch, halo)


@given(
    case=lane_cases(),
    gate=st.sampled_from([None, "given", "of x"]),
    upper=UPPER,
    weight=st.booleans(),
    training=st.booleans(),
    halo=st.integers(0, 2),
)
@settings(max_examples=200)
def test_batch_norm_backward_matches_the_oracle(case, gate, upper, weight, training, halo):
    grad, x, gates = case.operands(3)
    c = case.per_channel()

    def arguments(of):
        return (
            of(grad),
            case.halos[0],
            of(gates) if gate == "given" else None,
            case.halos[2],
            of(c + 0.25) if gate == "of x" else None,
            of(c - 0.5) if gate == "of x" else None,
            upper,
            of(x),
            case.batch,
            case.halos[1],
            of(c),
            of(c.abs() + 0.5),
            of(c + 1) if weight else None,
            training,
            halo,
        )

    got = ops.lanes_batch_norm_backward(*arguments(lambda t: t))
    # In float64, since the kernel's sums are exacter than float32's.
    want = oracle.lanes_batch_norm_backward(*arguments(torch.Tensor.double))
    count = case.batch * case.size[0] * case.size[1]
    eps = rounding(case.dtype) + tolerance(case.computed, count)
    # The oracle takes as many lanes as the tensors have.
    assert_lanes(got[0], want[0].to(case.dtype), case.batch, halo, rtol=eps, atol=4 * eps)
    for a, b in zip(got[1:], want[1:], strict=True):
        assert a.dtype == case.computed
        close = tolerance(case.computed, count)
        torch.testing.assert_close(a, b.to(case.computed), rtol=close, atol=8 * close)


@pytest.mark.parametrize("training", [True, False])
@given(case=lane_cases(), upper=UPPER)
@settings(max_examples=50)
def test_the_gate_of_a_relu_after_the_norm_is_the_same_unread(case, training, upper):
    if case.dtype in NARROW:
        upper = NONE  # a result that is read may have been rounded up to the limit
    grad, x = case.operands(2)
    c = case.per_channel()
    y = ops.lanes_scale_add_relu(
        x, case.batch, case.halos[1], c, 0.5 * c, None, 0, None, None, True, upper, 1
    )

    def backward(*gate):
        rest = (upper, x, case.batch, case.halos[1], c, c.abs() + 0.5, None, training, 1)
        return ops.lanes_batch_norm_backward(grad, case.halos[0], *gate, *rest)

    for read, unread in zip(backward(y, 1, None, None), backward(None, 0, c, 0.5 * c), strict=True):
        assert torch.equal(read, unread)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5, 65])
def test_moments_far_from_zero(dtype, size):
    far = 1e4 if dtype == torch.float32 else 1e9
    images = torch.randn(2 * lanes(dtype) + 1, 3, size, size, dtype=torch.float64)
    images = (images + torch.tensor([far, -far, 0.0]).view(-1, 1, 1)).to(dtype)
    got = moments(to_lanes(images, lanes(dtype), 1), len(images), 1)
    exact = images.double()
    # In float64 the mean itself is only known to 1e-7 of a deviation.
    want = exact.mean((0, 2, 3)), exact.var((0, 2, 3), correction=0)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def test_a_constant_has_no_variance():
    images = torch.full((lanes(torch.float32) - 1, 2, 3, 3), 1e7 / 3)
    mean, variance = moments(to_lanes(images, lanes(torch.float32), 1), len(images), 1)
    assert torch.equal(mean, images[0, :, 0, 0])
    assert not variance.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_stay_in_their_channel(value):
    dtype, n = torch.float32, lanes(torch.float32) + 1
    images = torch.randn(n, 3, 4, 5)
    images[n - 1, 1, 2, 3] = value
    x = to_lanes(images, lanes(dtype), 1)
    mean, variance = moments(x, n, 1)
    assert mean.isfinite().tolist() == variance.isfinite().tolist() == [True, False, True]
    y = ops.lanes_scale_add_relu(x, n, 1, None, None, None, 0, None, None, True, NONE, 1)
    assert_lanes(y, to_lanes(images.relu(), lanes(dtype), 1), n, 1)
    ones = torch.ones(3)
    for gate in (x, None):
        arguments = (x, 1, gate, 1, None, None, NONE, x, n, 1, ones, ones, None, False, 1)
        got = ops.lanes_batch_norm_backward(*arguments)
        want = oracle.lanes_batch_norm_backward(*arguments)
        assert_lanes(got[0], want[0], n, 1)
        for a, b in zip(got[1:], want[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_gate_opens_as_in_torch():
    grad = to_lanes(torch.ones(1, 1, 1, 1), lanes(torch.float32), 0)
    for value in (float("nan"), float("inf"), 1.0, 0.0, -0.0, -1.0):
        gate = torch.full((1, 1, 1, 1), value)
        out = ops.lanes_relu_backward_add(
            grad, 0, to_lanes(gate, grad.shape[-1], 0), 0, NONE, None, 0, 1
        )
        want = torch.ops.aten.threshold_backward(torch.ones(1, 1, 1, 1), gate, 0)
        assert torch.equal(from_lanes(out, 1, 1), want)
        out = ops.lanes_relu_backward_add(
            grad, 0, to_lanes(gate, grad.shape[-1], 0), 0, 1.0, None, 0, 1
        )
        want = torch.ops.aten.hardtanh_backward(torch.ones(1, 1, 1, 1), gate, 0, 1)
        assert torch.equal(from_lanes(out, 1, 1), want)


def test_infinite_constants_leave_halo_and_absent_lanes_zero():
    n, dtype = lanes(torch.float32) + 1, torch.float32
    x = to_lanes(torch.randn(n, 2, 3, 3), lanes(dtype), 1)
    inf = torch.full((2,), float("inf"))
    arguments = (x, n, 1, inf, inf, x, 1, -inf, inf, False, NONE, 2)
    got = ops.lanes_scale_add_relu(*arguments)
    assert_lanes(got, oracle.lanes_scale_add_relu(*arguments), n, 2)
    dx, *_ = ops.lanes_batch_norm_backward(
        x, 1, None, 0, None, None, NONE, x, n, 1, inf, inf, inf, True, 1
    )
    assert from_lanes(dx, n, 1).isnan().all()
    assert_lanes(dx, dx, n, 1)


def test_equal_bits_in_every_run_and_on_any_number_of_threads():
    n, dtype = 2 * lanes(torch.float32) + 3, torch.float32
    x, grad = (to_lanes(torch.randn(n, 7, 17, 19), lanes(dtype), 1) for _ in range(2))
    c = torch.rand(7) + 0.5

    def run():
        return (
            *moments(x, n, 1),
            ops.lanes_scale_add_relu(x, n, 1, c, c, grad, 1, c, c, True, 6.0, 1),
            ops.lanes_relu_backward_add(grad, 1, x, 1, 6.0, x, 1, 1),
            *ops.lanes_batch_norm_backward(
                grad, 1, x, 1, None, None, 6.0, x, n, 1, c, c, c, True, 1
            ),
        )

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = run()
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(run(), want, strict=True))
    finally:
        torch.set_num_threads(threads)


X = to_lanes(torch.randn(3, 2, 4, 4), lanes(torch.float32), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(X.int(), 3, 1), "takes float16, bfloat16, float32 or float64"),
        (lambda: moments(X[..., 1:], 3, 1), "takes bundles of .* images with .* reg"),
        (lambda: moments(X, 300, 1), "300 images do not fill 1 bundles"),
        (lambda: moments(X, 3, 4), "a halo that fits"),
        (
            lambda: ops.lanes_relu_backward_add(X, 1, X, 0, NONE, None, 0, 0),
            "one shape without their",
        ),
        (
            lambda: ops.lanes_scale_add_relu(
                X, 3, 1, torch.ones(3), None, None, 0, None, None, True, NONE, 1
            ),
            r"values per channel must have shape \(2,\), got \(3,\)",
        ),
        (
            lambda: ops.lanes_scale_add_relu(
                X, 3, 1, torch.ones(2).double(), None, None, 0, None, None, True, NONE, 1
            ),
            "takes Float values per channel, got Double",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()
