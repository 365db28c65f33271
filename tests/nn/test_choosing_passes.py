"""A layer computes the same whichever of its passes are sparse, and a dense one as torch's own."""

import copy
import gc
import weakref

import pytest
import torch
from support.stop_watch import X, masked_conv
from torch import nn

import sparselth as sl
from sparselth.ops import reference
from sparselth.ops.kernel_choice.measure_cpu import PASSES
from sparselth.ops.lanes import buffers

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


def gradients(module, x):
    x = x.detach().clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])]


SUBSETS = [frozenset(n for i, n in enumerate(PASSES) if bits >> i & 1) for bits in range(1, 7)]


@pytest.mark.parametrize("dense", SUBSETS, ids=lambda s: "+".join(sorted(s)))
def test_dense_passes_of_a_sparse_layer_compute_the_same(clock, dense):
    clock.sparse = tuple(1.1 if name in dense else 1.0 for name in PASSES)
    clock.dense = tuple(1.0 if name in dense else 20.0 for name in PASSES)
    linear = nn.Linear(8, 5).double()
    sl.sparsify(linear, {"weight": torch.rand(5, 8) < 0.5})
    for module, x in (
        (masked_conv(dtype=torch.float64, stride=2), torch.randn(3, 4, 7, 7)),
        (linear, torch.randn(2, 3, 8)),
    ):
        x = x.double()
        got = gradients(module, x)
        made = module.choice(x.requires_grad_())
        assert made.sparse
        assert made.dense_passes == dense
        with sl.use_backend("reference"):
            torch.testing.assert_close(got, gradients(module, x))


def test_a_backward_keeps_the_choice_of_its_forward(clock, monkeypatch):
    """Two inputs in flight at once, each with passes of its own."""
    clock.sparse, clock.dense = (1.0, 1.0, 9.0), (9.0, 9.0, 1.0)
    conv = masked_conv(dtype=torch.float64)
    x = X.double()
    first = conv(x)
    clock.sparse, clock.dense = (1.0, 1.0, 1.0), (9.0, 9.0, 9.0)
    conv(x[:1])
    ran = []
    op = "masked_conv2d_grad_weight"
    plain = reference.oracle(op)
    monkeypatch.setitem(reference._ORACLES, op, lambda *args: ran.append(1) or plain(*args))
    first.sum().backward()
    assert ran


def test_a_dense_layer_between_sparse_ones(clock):
    clock.dense_for = lambda weight: weight.shape[-1] == 5
    model = nn.Sequential(
        *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Conv2d(4, 4, 3, padding=1),
    ).double()
    masks = {f"{i}.weight": torch.rand_like(model[i].weight) < 0.5 for i in (0, 3, 6)}
    sl.sparsify(model, masks)
    got = gradients(model, X.double())
    made = [next(iter(model[i].service.choices.values())) for i in (0, 3, 6)]
    assert [choice.sparse for choice in made] == [True, False, True]
    with sl.use_backend("reference"):
        torch.testing.assert_close(got, gradients(model, X.double()))


def test_a_plain_gradient_is_converted_once(clock, monkeypatch):
    conv = masked_conv()
    y = conv(X.clone().requires_grad_())
    calls = []
    real = buffers._to_lanes
    monkeypatch.setattr(buffers, "_to_lanes", lambda x, *n: calls.append(x.shape) or real(x, *n))
    y.backward(torch.ones(y.shape))
    assert calls == [y.shape]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dense_layer_follows_its_mask(clock, dtype):
    clock.dense = (0.1, 0.1, 0.1)
    conv = masked_conv(dtype=dtype)
    x = X.to(dtype)
    for _ in range(2):
        with torch.no_grad():
            conv.weight[~conv.weight_mask] = float("nan")  # must never be read
        got = gradients(conv, x)
        with sl.use_backend("reference"):
            torch.testing.assert_close(got, gradients(conv, x))
        assert not got[2][~conv.weight_mask].any()
        conv.weight_mask[1] = False
        conv.refresh_mask()


def test_a_full_mask_is_plain_convolution(clock):
    clock.dense = (0.1, 0.1, 0.1)
    conv = nn.Conv2d(4, 6, 3, padding=1)
    plain = copy.deepcopy(conv)
    sl.sparsify(conv, {"weight": torch.ones_like(conv.weight, dtype=torch.bool)})
    for got, want in zip(gradients(conv, X), gradients(plain, X), strict=True):
        assert torch.equal(got, want)
    conv.weight_mask[0] = False
    assert not gradients(conv, X)[2][0].any()


def test_no_graph_is_kept_alive(clock):
    clock.sparse, clock.dense = (2.0, 1.0, 2.0), (1.0, 9.0, 1.0)
    conv = masked_conv(dtype=torch.float64)
    y = conv(X.double().requires_grad_())
    assert conv.choice(X.double().requires_grad_()).dense_passes == {"forward", "grad_weight"}
    node = weakref.ref(y.grad_fn)
    y.sum().backward()
    del y
    gc.collect()
    assert node() is None
