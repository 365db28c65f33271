"""Values in lanes are left uncomputed as long as they can, and are show their time."""

import pytest
import torch
import torch.nn.functional as F
from support.lane_values import OTHER, X, batch_norm

from sparselth.ops.lanes.convert import enter_lanes
from sparselth.ops.lanes.value import AffineSum, LaneBuffer, MaskedGrad

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
    assert state(F.relu(norm + x)) is LaneBuffer
    assert state(norm) is AffineSum
    out = F.relu(norm)
    grad = torch.ops.aten.threshold_backward(enter_lanes(OTHER), out, 0)
    assert state(grad) is MaskedGrad
    assert state(grad + x) is LaneBuffer
    assert state(x + grad) is LaneBuffer
    assert state(x.add_(grad)) is LaneBuffer
    out = F.relu6(norm)
    assert state(out) is LaneBuffer
    assert state(torch.ops.aten.hardtanh_backward(enter_lanes(OTHER), out, 0, 6)) is MaskedGrad
