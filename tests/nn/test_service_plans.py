"""A plan is built for who reads it, and given up where every kind of input is served densely."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.nn import choosing
from sparselth.ops import libraries
from sparselth.ops.plan import plan_of

pytestmark = pytest.mark.skipif(
    not libraries.has_kernel("masked_conv2d", "cpu"), reason="the compiled kernels are not there"
)


def layer(sparsity):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
    sl.sparsify(model, sl.find_masks(model, sparsity=sparsity, exclude=()))
    return model[0]


@pytest.mark.parametrize(("sparsity", "built"), [(0.1, False), (0.95, True)])
def test_the_table_needs_no_plan_to_say_dense(sparsity, built):
    conv = layer(sparsity)
    with sl.use_choice("fixed"):
        assert conv.choice(torch.randn(4, 8, 8, 8)).sparse is built
        conv(torch.randn(4, 8, 8, 8))
    assert (conv.service._plan is not None) is built


def test_measuring_leaves_no_plan_where_dense_wins(monkeypatch):
    conv = layer(0.9)
    decide, wins = choosing.choosing.decide, False
    monkeypatch.setattr(
        choosing.choosing, "decide", lambda *given: replace(decide(*given), sparse=wins)
    )
    with sl.use_choice("measured"):
        x = torch.randn(4, 8, 8, 8)
        want = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
        torch.testing.assert_close(conv(x), want)
        assert conv.service.choices
        assert conv.service._plan is None
        wins = True
        more = torch.randn(4, 8, 16, 16)
        conv(more)
        plan = conv.service._plan
        assert torch.equal(plan, plan_of(conv.weight_mask, 1))
        wins = False
        for size in (4, 12):  # one kind is served by it still
            conv(torch.randn(2, 8, size, size))
            assert conv.service._plan is plan
        torch.testing.assert_close(conv(x), want)
