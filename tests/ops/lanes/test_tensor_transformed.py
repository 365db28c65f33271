"""LaneTensor under torch.func, forward-mode differentiation, torch.compile and autocast."""

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from support.lane_values import OTHER, SCALE, X, plain
from torch._dynamo.backends.common import aot_autograd

import sparselth as sl
from sparselth.ops.lanes.convert import can_use_lanes, enter_lanes

pytestmark = [pytest.mark.usefixtures("traveling", "one_thread")]


def batch_norm(x, training=True):
    mean = torch.zeros(4, dtype=x.dtype)
    return F.batch_norm(x, mean, mean + 1, SCALE, None, training)


def _compile(graph, _):
    def run(*inputs):
        # A compiled kernel reads memory, and a wrapper has none. Sizes are inputs where dynamic.
        assert all(type(x) in (torch.Tensor, torch.nn.Parameter, int) for x in inputs)
        return graph(*inputs)

    return make_boxed_func(run)


BACKENDS = pytest.mark.parametrize(
    "backend", ["eager", aot_autograd(fw_compiler=_compile)], ids=["eager", "aot"]
)


def test_torch_func():
    y, v = enter_lanes(X), enter_lanes(OTHER)
    torch.testing.assert_close(torch.func.vmap(torch.sin)(y), X.sin())
    torch.testing.assert_close(torch.func.grad(lambda x: (F.relu(x) * v).sum())(y), OTHER * (X > 0))
    torch.testing.assert_close(
        torch.func.vmap(lambda x: F.relu(batch_norm(x, False)))(y[None]),
        F.relu(batch_norm(X, False))[None],
    )


def test_forward_mode_stays_plain():
    with torch.autograd.forward_ad.dual_level():
        assert not can_use_lanes(X)
        dual = torch.autograd.forward_ad.make_dual(enter_lanes(X), enter_lanes(OTHER))
        tangent = torch.autograd.forward_ad.unpack_dual(F.relu(dual) * 2).tangent
        assert torch.equal(tangent, 2 * OTHER * (X > 0))


@BACKENDS
def test_torch_compile_of_a_function_of_it(backend):
    def function(x, z):
        return F.relu(batch_norm(x)) * z + x.view(-1)[0]

    compiled = torch.compile(function, backend=backend)
    for seed in (1, 2):
        x = plain(3, 4, 5, 6, seed=seed).requires_grad_()
        y = x.detach().clone().requires_grad_()
        want, got = function(x, OTHER), compiled(enter_lanes(y), OTHER)
        torch.testing.assert_close(got + 0, want)
        want.square().sum().backward()
        got.square().sum().backward()
        torch.testing.assert_close(y.grad, x.grad)


@BACKENDS
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_of_a_masked_convolution_of_it(backend, dynamic):
    weight, mask = plain(2, 4, 3, 3), torch.rand(2, 4, 3, 3) < 0.3

    def function(x):
        return sl.ops.masked_conv2d(x, weight, mask)

    torch.compiler.reset()
    compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    want, got = function(x), compiled(enter_lanes(y))
    torch.testing.assert_close(got + 0, want)
    (want * 2).mean().backward()
    (got * 2).mean().backward()
    torch.testing.assert_close(y.grad, x.grad)


@BACKENDS
def test_a_compiled_backward_gets_gradients_in_lanes(backend):
    compiled = torch.compile(torch.sin, backend=backend)
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    (F.relu(enter_lanes(OTHER) + compiled(y))).sum().backward()
    (F.relu(OTHER + torch.sin(x))).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)


@BACKENDS
def test_one_compiled_function_serves_both(backend):
    compiled = torch.compile(lambda x: torch.sin(x) * 2, backend=backend)
    for x in (X, enter_lanes(X), F.relu(batch_norm(enter_lanes(X))), OTHER):
        for leaf in (x, x.detach().requires_grad_(), x.detach().requires_grad_() * 1):
            torch.testing.assert_close(compiled(leaf), torch.sin(leaf) * 2)


@BACKENDS
def test_a_compiled_function_that_writes_to_it(backend):
    compiled = torch.compile(lambda x: x.mul_(3).relu_(), backend=backend)
    y = enter_lanes(X)
    alias = y.detach()
    torch.testing.assert_close(compiled(y) + 0, 3 * X.relu())
    assert torch.equal(y, 3 * X.relu())
    assert torch.equal(alias, 3 * X.relu())


def test_autocast():
    y = enter_lanes(X.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = F.conv2d(y, plain(2, 4, 3, 3).float())
        want = F.conv2d(X.float(), plain(2, 4, 3, 3).float())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, want)
