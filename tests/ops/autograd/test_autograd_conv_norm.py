"""The derivatives of convolution, norm, shortcut and ReLU in one node."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sparselth.ops.autograd.conv_norm import ConvNorm, NormSettings
from sparselth.ops.lanes.convert import enter_lanes

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")

CONV = ((2, 1), (1, 1), (1, 1), 2)
NORM = NormSettings(None, None, True, 0.1, 1e-3)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("upper", [None, math.nan, 1.0], ids=["no ReLU", "ReLU", "ReLU up to 1"])
@pytest.mark.parametrize("adds", [False, True], ids=["alone", "with a shortcut"])
def test_gradients_are_those_of_differences(upper, adds):
    mask = torch.rand(4, 2, 3, 3) < 0.5

    def run(x, weight, bias, gamma, beta, shortcut=None):
        shortcut = None if shortcut is None else enter_lanes(shortcut)
        kept = weight * mask  # off the mask there is no gradient
        rest = (mask, None, CONV, NORM, upper, True)
        return ConvNorm.apply(enter_lanes(x), kept, bias, gamma, beta, shortcut, *rest).dense()

    given = [draw(3, 4, 4, 3), draw(4, 2, 3, 3), draw(4), draw(4), draw(4)]
    if adds:
        given.append(draw(3, 4, 2, 3))
    assert gradcheck(run, given)
    assert gradgradcheck(run, given, fast_mode=True)
