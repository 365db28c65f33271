"""Dense passes between sparse ones compute the same, in both orders of derivatives."""

import pytest
import torch

from sparselth.ops.autograd.conv import MaskedConv2d
from sparselth.ops.autograd.linear import MaskedLinear
from sparselth.ops.kernel_choice.measure_cpu import PASSES
from sparselth.ops.lanes.convert import enter_lanes
from sparselth.ops.plan import conv_plan

SUBSETS = [frozenset(n for i, n in enumerate(PASSES) if bits >> i & 1) for bits in range(8)]


def both_orders(call, inputs):
    """Return the value, the gradients, and the gradients of a function of them."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    y = call(*inputs)
    first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    return [y, *first, *second]


@pytest.mark.usefixtures("traveling")
@pytest.mark.parametrize("arrives", ["plain", "in lanes"])
@pytest.mark.parametrize("dense", SUBSETS, ids=lambda s: "+".join(sorted(s)) or "none")
def test_a_convolution_with_dense_passes_computes_the_same(dense, arrives):
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64)
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    mask = torch.rand(6, 2, 3, 3) < 0.4
    plan, conv = torch.zeros(1, dtype=torch.int32), ([2, 1], [1, 1], [1, 1], 2)
    real = conv_plan(mask, 2)
    plan = plan if real is None else real

    def op(x, w, b):
        # The oracle, which serves a package without kernels, does not read the plan.
        x = enter_lanes(x) if arrives == "in lanes" else x
        return MaskedConv2d.apply(x, w, b, mask, plan, conv, dense)

    def oracle(x, w, b):
        return torch.nn.functional.conv2d(x, torch.where(mask, w, 0.0), b, *conv)

    inputs = (x, weight, bias)
    torch.testing.assert_close(both_orders(op, inputs), both_orders(oracle, inputs))


@pytest.mark.parametrize("dense", SUBSETS, ids=lambda s: "+".join(sorted(s)) or "none")
def test_a_linear_layer_with_dense_passes_computes_the_same(dense):
    x, weight = torch.randn(5, 7, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    bias, mask = torch.randn(6, dtype=torch.float64), torch.rand(6, 7) < 0.4
    real = conv_plan(mask)
    plan = torch.zeros(1, dtype=torch.int32) if real is None else real

    def op(x, w, b):
        return MaskedLinear.apply(x, w, b, mask, plan, dense)

    def oracle(x, w, b):
        return torch.nn.functional.linear(x, torch.where(mask, w, 0.0), b)

    inputs = (x, weight, bias)
    torch.testing.assert_close(both_orders(op, inputs), both_orders(oracle, inputs))
