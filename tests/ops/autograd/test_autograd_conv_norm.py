"""The derivatives of convolutions, norms, a shortcut and ReLUs in one node."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sparselth.ops.autograd.conv_norm import ConvNorms, Link, NormSettings
from sparselth.ops.lanes.convert import enter_lanes

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")

NORM = NormSettings(None, None, True, 0.1, 1e-3)
UPPER = pytest.mark.parametrize("upper", [None, math.nan, 1.0], ids=["none", "ReLU", "up to 1"])


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def parameters(channels_out, channels_in):
    return [draw(channels_out, channels_in, 3, 3), *(draw(channels_out) for _ in range(3))]


def chained(convs, uppers, shortcut=None):
    """Return a function of x, a shortcut if one is given, and each link's parameters.

    convs: (C_out, C_in / groups, conv) of each link.  shortcut: "given", "x" or None.
    """
    masks = [torch.rand(c_out, c_in, 3, 3) < 0.5 for c_out, c_in, _ in convs]
    links = tuple(
        Link(mask, None, conv, NORM, upper, True)
        for mask, (_, _, conv), upper in zip(masks, convs, uppers, strict=True)
    )

    def run(x, *rest):
        rest = list(rest)
        second = enter_lanes(rest.pop(0)) if shortcut == "given" else None
        for place, mask in enumerate(masks):
            rest[4 * place] = rest[4 * place] * mask  # off the mask there is no gradient
        return ConvNorms.apply(enter_lanes(x), second, shortcut == "x", links, *rest).dense()

    return run


STRIDED = ((2, 1), (1, 1), (1, 1), 2)
SAME = ((1, 1), (1, 1), (1, 1), 1)


@UPPER
@pytest.mark.parametrize("shortcut", [None, "given"])
def test_gradients_of_one_link_are_those_of_differences(upper, shortcut):
    run = chained([(4, 2, STRIDED)], [upper], shortcut)
    given = [draw(3, 4, 4, 3), *([draw(3, 4, 2, 3)] if shortcut else []), *parameters(4, 2)]
    assert gradcheck(run, given)
    assert gradgradcheck(run, given, fast_mode=True)


@UPPER
@pytest.mark.parametrize("shortcut", [None, "given", "x"])
def test_gradients_of_links_in_a_row_are_those_of_differences(upper, shortcut):
    run = chained([(3, 4, SAME), (4, 3, SAME)], [math.nan, upper], shortcut)
    given = [draw(2, 4, 3, 3), *([draw(2, 4, 3, 3)] if shortcut == "given" else [])]
    given += [*parameters(3, 4), *parameters(4, 3)]
    assert gradcheck(run, given)
    assert gradgradcheck(run, given, fast_mode=True)


@pytest.mark.parametrize("first", range(9))
def test_what_needs_no_gradient_gets_none(first):
    """Of x and each link's parameters, those from `first` on need one."""
    run = chained([(4, 4, SAME), (4, 4, SAME)], [None, math.nan], "x")
    given = [draw(2, 4, 3, 3), *parameters(4, 4), *parameters(4, 4)]
    want = torch.autograd.grad(run(*given).square().sum(), given)
    some = [t.detach().requires_grad_(place >= first) for place, t in enumerate(given)]
    run(*some).square().sum().backward()
    for place, (t, grad) in enumerate(zip(some, want, strict=True)):
        if place >= first:
            torch.testing.assert_close(t.grad, grad, rtol=0, atol=0)
        else:
            assert t.grad is None
