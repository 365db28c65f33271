"""Max pooling of activations in lanes, against the oracle."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import FLOATS, NARROW, assert_lanes, lane_cases

from sparselth.ops.lanes.layout import from_lanes, interior, lanes, to_lanes
from sparselth.ops.libraries import has_kernel
from sparselth.ops.reference import lanes_layers as oracle

pytestmark = pytest.mark.skipif(
    not has_kernel("lanes_max_pool2d", "cpu"), reason="the compiled kernels are not there"
)

ops = torch.ops.sparselth


@st.composite
def windows(draw):
    """Side by side, overlapping, with gaps; up to 4x4, the smallest image drawn."""
    if draw(st.booleans()):
        size = draw(st.sampled_from([2, 3]))
        return [size, size], [draw(st.sampled_from([size, 2]))] * 2, [draw(st.integers(0, 1))] * 2
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    stride = [draw(st.integers(1, 5)) for _ in range(2)]
    return kernel, stride, [draw(st.integers(0, k // 2)) for k in kernel]


TILES = ([2, 2], [2, 2], [0, 0])

# Scale, shift, whether there is a ReLU, and its limit.
NONE = float("nan")
AS_IT_LIES = (None, None, False, NONE)


def expressions(values):
    """Draw a function of (channels, dtype) that makes scale, shift, relu and upper of `values`."""

    def made(seeds, relu, upper):
        def expression(channels, dtype):
            per_channel = (
                seed
                if seed is None
                else values(torch.Generator().manual_seed(seed), channels).to(dtype)
                for seed in seeds
            )
            return (*per_channel, relu, upper)

        return expression

    seed = st.none() | st.integers(0, 2**16)
    return st.builds(made, st.tuples(seed, seed), st.booleans(), st.sampled_from([NONE, 0.75]))


def compare(x, batch, x_halo, window, halo, expression=AS_IT_LIES):
    """Compare forward and backward; return the kernel's results."""
    arguments = (x, batch, x_halo, *expression, *window, halo)
    y, position = ops.lanes_max_pool2d(*arguments)
    want_y, want_position = oracle.lanes_max_pool2d(*arguments)
    assert_lanes(y, want_y, batch, halo)
    assert position.is_contiguous()
    # Lanes beyond the batch may say what they like.
    assert torch.equal(*(from_lanes(t, batch, 0) for t in (position, want_position)))
    grad = to_lanes(torch.randn_like(from_lanes(y, batch, halo)), x.shape[-1], halo)
    size = list(interior(x, x_halo).shape[2:4])
    arguments = (grad, batch, halo, position, size, *window, x_halo)
    dx = ops.lanes_max_pool2d_backward(*arguments)
    # Both add a pixel's windows in row-major order.
    eps = torch.finfo(x.dtype).eps if x.dtype.itemsize < 4 else 0.0
    assert_lanes(dx, oracle.lanes_max_pool2d_backward(*arguments), batch, x_halo, rtol=eps)
    return y, position, dx


@given(case=lane_cases(min_size=4), window=windows(), halo=st.integers(0, 2))
@settings(max_examples=300)
def test_matches_the_oracle(case, window, halo):
    (x,) = case.operands(1)  # a third is zeros: ties
    compare(x, case.batch, case.halos[0], window, halo)


def halves(generator, channels):
    return torch.randint(-3, 4, (channels,), generator=generator) / 2


@given(
    case=lane_cases(min_size=4),
    window=windows(),
    halo=st.integers(0, 2),
    expression=expressions(halves),
)
@settings(max_examples=300)
def test_an_expression_matches_the_oracle(case, window, halo, expression):
    # Of numbers so short that the oracle, which rounds products too, computes the same. Many tie.
    (x,) = case.operands(1)
    x = (4 * x).round() / 4
    made = expression(case.channels, case.computed)
    compare(x, case.batch, case.halos[0], window, halo, made)


def in_two_passes(x, batch, x_halo, expression, window, halo):
    scale, shift, relu, upper = expression
    computed = ops.lanes_scale_add_relu(
        x, batch, x_halo, scale, shift, None, 0, None, None, relu, upper, 0
    )
    return ops.lanes_max_pool2d(computed, batch, 0, *AS_IT_LIES, *window, halo)


def bits(t):
    return t.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.dtype.itemsize])


def assert_as_in_two_passes(x, batch, x_halo, expression, window, halo):
    y, position = ops.lanes_max_pool2d(x, batch, x_halo, *expression, *window, halo)
    want_y, want_position = in_two_passes(x, batch, x_halo, expression, window, halo)
    assert torch.equal(bits(y), bits(want_y))
    assert torch.equal(*(from_lanes(t, batch, 0) for t in (position, want_position)))


def any_numbers(generator, channels):
    return torch.randn(channels, generator=generator, dtype=torch.float64)


@given(
    case=lane_cases(min_size=4),
    window=windows(),
    halo=st.integers(0, 2),
    expression=expressions(any_numbers),
)
@settings(max_examples=300)
def test_an_expression_has_the_bits_of_its_oracle_in_two_passes(case, window, halo, expression):
    (x,) = case.operands(1)
    made = expression(case.channels, case.computed)
    if made[:3] != AS_IT_LIES[:3]:  # a pass that computes nothing makes 0 of -0
        assert_as_in_two_passes(x, case.batch, case.halos[0], made, window, halo)


@pytest.mark.parametrize("dtype", NARROW)
def test_values_that_rounding_makes_equal_tie_as_in_the_oracle(dtype):
    n, eps = lanes(dtype), torch.finfo(dtype).eps
    x = to_lanes((1 + torch.randint(8, (n, 2, 6, 6)) * eps).to(dtype), n, 0)
    expression = (torch.tensor([1.0, -0.25]), torch.tensor([4 / eps, 8.0]), True, NONE)
    y, position, _ = compare(x, n, 0, TILES, 0, expression)
    assert (y == torch.tensor([4 / eps, 7.75]).view(-1, 1, 1, 1)).all()
    assert not position.any()  # the first of equals


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [(9, 11), (1, 15)])
def test_large_windows_match_the_oracle(dtype, size):
    x = to_lanes(torch.randn(3, 2, 17, 30, dtype=dtype), lanes(dtype), 1)
    compare(x, 3, 1, (list(size), [2, 3], [size[0] // 2, size[1] // 2]), 1)
    compare(x, 3, 1, (list(size), list(size), [0, 0]), 1)


PER_CHANNEL = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.5, 0.0, float("nan")])


@pytest.mark.parametrize(
    "expression",
    [AS_IT_LIES, (None, None, True, NONE), (*PER_CHANNEL, False, NONE), (*PER_CHANNEL, True, 6.0)],
)
@pytest.mark.parametrize("window", [TILES, ([3, 3], [2, 2], [1, 1])])
def test_nan_and_infinity_as_the_oracle(window, expression):
    n = lanes(torch.float32) + 1
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), -1.0, -2.0])
    images = values[torch.randint(5, (n, 3, 9, 10))]
    images[:, 2] = -float("inf")
    x = to_lanes(images, lanes(torch.float32), 1)
    compare(x, n, 1, window, 1, expression)
    if expression is not AS_IT_LIES:
        assert_as_in_two_passes(x, n, 1, expression, window, 1)


def test_padding_never_wins():
    x = to_lanes(-torch.rand(3, 2, 5, 5) - 1, lanes(torch.float32), 1)
    y, *_ = compare(x, 3, 1, ([3, 3], [2, 2], [1, 1]), 0)
    assert (from_lanes(y, 3, 0) < 0).all()


def test_nan_gradients_reach_only_the_maximum():
    x = to_lanes(torch.randn(2, 1, 6, 6), lanes(torch.float32), 0)
    for window in (TILES, ([3, 3], [3, 3], [1, 1])):
        y, position = ops.lanes_max_pool2d(x, 2, 0, *AS_IT_LIES, *window, 0)
        grad = to_lanes(torch.full_like(from_lanes(y, 2, 0), float("nan")), x.shape[-1], 0)
        dx = ops.lanes_max_pool2d_backward(grad, 2, 0, position, [6, 6], *window, 0)
        assert dx.isnan().sum() == from_lanes(y, 2, 0).numel()


def test_equal_bits_in_every_run_and_on_any_number_of_threads():
    n, window = 2 * lanes(torch.float32) + 3, ([3, 3], [2, 2], [1, 1])
    x = to_lanes(torch.randn(n, 7, 17, 19), lanes(torch.float32), 1)
    expression = (torch.randn(7), torch.randn(7), True, 6.0)

    def run():
        y, position = ops.lanes_max_pool2d(x, n, 1, *expression, *window, 1)
        dx = ops.lanes_max_pool2d_backward(y, n, 1, position, [17, 19], *window, 1)
        return y, position, dx

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
    ("input", "window", "message"),
    [
        ((X.int(), 3), TILES, "takes float16, bfloat16, float32 or float64"),
        ((X, 3), ([16, 16], [1, 1], [8, 8]), "windows of at most 255 pixels"),
        ((X, 3), ([2, 2], [1, 1], [2, 0]), "padding of at most half the kernel"),
        ((X, 3), ([2, 2], [0, 1], [0, 0]), "stride must be two ints in "),
        ((X, 3), ([5, 2], [1, 1], [0, 0]), "a window of 5 pixels does not fit into 4"),
        ((X, 99), TILES, "99 images do not fill 1 bundles"),
    ],
)
def test_bad_input_is_one_clear_sentence(input, window, message):
    with pytest.raises(RuntimeError, match=message):
        ops.lanes_max_pool2d(*input, 1, *AS_IT_LIES, *window, 1)


@pytest.mark.parametrize(
    ("x", "values", "message"),
    [
        (X, torch.ones(3), r"values per channel must have shape \(2,\), got \(3,\)"),
        (X, torch.ones(2).double(), "takes Float values per channel, got Double"),
        (X.bfloat16(), torch.ones(2).bfloat16(), "takes Float values per channel, got BFloat16"),
    ],
)
def test_a_scale_or_shift_that_does_not_fit_is_refused(x, values, message):
    for pair in ((values, None), (None, values)):
        with pytest.raises(RuntimeError, match=message):
            ops.lanes_max_pool2d(x, 3, 1, *pair, True, NONE, *TILES, 1)


def test_a_gradient_of_another_size_is_refused():
    _, position = ops.lanes_max_pool2d(X, 3, 1, *AS_IT_LIES, *TILES, 0)
    with pytest.raises(RuntimeError, match="not one per window"):
        ops.lanes_max_pool2d_backward(X, 3, 1, position, [4, 4], [2, 2], [2, 2], [0, 0], 0)
