"""Max pooling of activations in lanes, against the oracle."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import assert_lanes, lane_cases

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


def compare(x, batch, x_halo, window, halo):
    """Compare forward and backward; return the kernel's results."""
    y, position = ops.lanes_max_pool2d(x, batch, x_halo, *window, halo)
    want_y, want_position = oracle.lanes_max_pool2d(x, batch, x_halo, *window, halo)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(9, 11), (1, 15)])
def test_large_windows_match_the_oracle(dtype, size):
    x = to_lanes(torch.randn(3, 2, 17, 30, dtype=dtype), lanes(dtype), 1)
    compare(x, 3, 1, (list(size), [2, 3], [size[0] // 2, size[1] // 2]), 1)
    compare(x, 3, 1, (list(size), list(size), [0, 0]), 1)


@pytest.mark.parametrize("window", [([2, 2], [2, 2], [0, 0]), ([3, 3], [2, 2], [1, 1])])
def test_nan_and_infinity_as_the_oracle(window):
    n = lanes(torch.float32) + 1
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), -1.0, -2.0])
    images = values[torch.randint(5, (n, 3, 9, 10))]
    images[:, 2] = -float("inf")
    compare(to_lanes(images, lanes(torch.float32), 1), n, 1, window, 1)


def test_padding_never_wins():
    x = to_lanes(-torch.rand(3, 2, 5, 5) - 1, lanes(torch.float32), 1)
    y, *_ = compare(x, 3, 1, ([3, 3], [2, 2], [1, 1]), 0)
    assert (from_lanes(y, 3, 0) < 0).all()


def test_nan_gradients_reach_only_the_maximum():
    x = to_lanes(torch.randn(2, 1, 6, 6), lanes(torch.float32), 0)
    for window in (([2, 2], [2, 2], [0, 0]), ([3, 3], [3, 3], [1, 1])):
        y, position = ops.lanes_max_pool2d(x, 2, 0, *window, 0)
        grad = to_lanes(torch.full_like(from_lanes(y, 2, 0), float("nan")), x.shape[-1], 0)
        dx = ops.lanes_max_pool2d_backward(grad, 2, 0, position, [6, 6], *window, 0)
        assert dx.isnan().sum() == from_lanes(y, 2, 0).numel()


def test_equal_bits_in_every_run_and_on_any_number_of_threads():
    n, window = 2 * lanes(torch.float32) + 3, ([3, 3], [2, 2], [1, 1])
    x = to_lanes(torch.randn(n, 7, 17, 19), lanes(torch.float32), 1)

    def run():
        y, position = ops.lanes_max_pool2d(x, n, 1, *window, 1)
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
    ("arguments", "message"),
    [
        ((X.half(), 3, 1, [2, 2], [2, 2], [0, 0], 1), "takes bfloat16, float32 or float64"),
        ((X, 3, 1, [16, 16], [1, 1], [8, 8], 1), "windows of at most 255 pixels"),
        ((X, 3, 1, [2, 2], [1, 1], [2, 0], 1), "padding of at most half the kernel"),
        ((X, 3, 1, [2, 2], [0, 1], [0, 0], 1), "stride must be two ints in "),
        ((X, 3, 1, [5, 2], [1, 1], [0, 0], 1), "a window of 5 pixels does not fit into 4"),
        ((X, 99, 1, [2, 2], [2, 2], [0, 0], 1), "99 images do not fill 1 bundles"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        ops.lanes_max_pool2d(*arguments)


def test_a_gradient_of_another_size_is_refused():
    _, position = ops.lanes_max_pool2d(X, 3, 1, [2, 2], [2, 2], [0, 0], 0)
    with pytest.raises(RuntimeError, match="not one per window"):
        ops.lanes_max_pool2d_backward(X, 3, 1, position, [4, 4], [2, 2], [2, 2], [0, 0], 0)
