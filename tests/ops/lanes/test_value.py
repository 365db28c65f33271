"""Values in lanes are left uncomputed as long as they can, and are show their time."""

import pytest
import torch
import torch.nn.functional as F
from support.lane_values import OTHER, X, batch_norm

from sparselth.ops.lanes.convert import enter_lanes
from sparselth.ops.lanes.value import Activation, AffineSum, LaneBuffer, MaskedGrad

pytestmark = [pytest.mark.usefixtures("traveling", "one_thread")]


def test_lazy_values_are_of_their_time():
    x = enter_lanes(X)
    total = batch_norm(x) + x
    want = batch_norm(X) + X
    x.zero_()
    torch.testing.assert_close(total.dense(), want)


def state(x):
    return type(x._value.state)


def test_what_is_lazy_and_what_computes():
    x = enter_lanes(X)
    norm = batch_norm(x)
    assert state(norm) is AffineSum
    assert state(norm + x) is AffineSum
    assert state(norm + x + norm) is AffineSum
    assert state(F.relu(norm + x)) is Activation
    assert state(F.relu(norm + x) + x) is AffineSum
    assert state(norm) is AffineSum
    out = F.relu(norm)
    grad = torch.ops.aten.threshold_backward(enter_lanes(OTHER), out, 0)
    assert state(grad) is MaskedGrad
    assert state(grad + x) is LaneBuffer
    assert state(x + grad) is LaneBuffer
    assert state(x.add_(grad)) is LaneBuffer
    out = F.relu6(norm)
    assert state(out) is Activation
    assert state(torch.ops.aten.hardtanh_backward(enter_lanes(OTHER), out, 0, 6)) is MaskedGrad


@pytest.mark.parametrize("upper", [3.0, 6.0, 9.0])
def test_what_was_cut_lower_opens_a_relu6(upper):
    cut = F.hardtanh(batch_norm(enter_lanes(20 * X), training=False), 0.0, upper)
    plain = F.hardtanh(batch_norm(20 * X, training=False), 0.0, upper)
    assert (plain == upper).any()
    backward = torch.ops.aten.hardtanh_backward
    got = backward(enter_lanes(OTHER), cut, 0, 6)
    torch.testing.assert_close(got.dense(), backward(OTHER, plain, 0, 6))


def convolved(x, kernel=3):
    weight = torch.randn(4, x.shape[1], kernel, kernel, dtype=x.dtype)
    mask = torch.rand(weight.shape) < 0.5
    conv = ([1, 1], [kernel // 2] * 2, [1, 1], 1)
    got = torch.ops.sparselth.masked_conv2d(x, weight, mask, None, None, *conv)
    want = F.conv2d(x.dense(), weight * mask, None, *conv)
    torch.testing.assert_close(got.dense(), want)


def test_a_convolution_computes_what_it_reads_and_keeps_sums_alone():
    x = enter_lanes(X)
    norm = batch_norm(x)
    one, two = F.relu(norm), F.relu6(norm + x)
    convolved(norm)
    for kernel in (1, 3):
        convolved(F.relu(norm), kernel)
        convolved(F.relu6(norm + x), kernel)
    conv = ([1, 1], [1, 1], [1, 1], 1)
    weight = torch.randn(4, X.shape[1], 3, 3, dtype=X.dtype)
    for activation in (one, two):
        torch.ops.sparselth.masked_conv2d(activation, weight, weight > 0, None, None, *conv)
    assert state(one) is Activation
    assert state(two) is LaneBuffer
    torch.testing.assert_close(two.dense(), F.relu6(batch_norm(X) + X))
    convolved(two)  # without the halo that the padding wants
