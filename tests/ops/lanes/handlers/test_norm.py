"""Batch norm of lanes keeps its running statistics, and refuses what the plain one does."""

import pytest
import torch
from support.lane_values import plain

from sparselth.ops.lanes.convert import enter_lanes

pytestmark = [pytest.mark.usefixtures("traveling", "one_thread")]


def test_running_statistics():
    x, y = plain(3, 4, 5, 6), enter_lanes(plain(3, 4, 5, 6))
    a, b = torch.nn.BatchNorm2d(4).double(), torch.nn.BatchNorm2d(4).double()
    for _ in range(3):
        a(x)
        b(y)
    for name, value in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[name], value)
    assert b.running_mean._version == a.running_mean._version
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        a(x[:1, :, :1, :1])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        b(enter_lanes(x[:1, :, :1, :1]))
