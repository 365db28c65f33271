"""Autograd through LaneTensor: derivatives of both orders, hooks, leaves and inference mode."""

import pytest
import torch
import torch.nn.functional as F
from support.lane_values import OTHER, X, batch_norm, plain
from torch.autograd import gradcheck, gradgradcheck

from sparselth.ops.lanes.convert import enter_lanes

pytestmark = [pytest.mark.usefixtures("traveling", "one_thread")]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: enter_lanes(x),
        lambda x: enter_lanes(x).dense(),
        lambda x: F.relu(batch_norm(enter_lanes(x)) + enter_lanes(x)),
        lambda x: F.hardtanh(batch_norm(enter_lanes(x)) + enter_lanes(x), 0.0, 0.5),
        lambda x: F.hardtanh(batch_norm(enter_lanes(x)), 0.0, 0.5, inplace=True),
        lambda x: batch_norm(enter_lanes(x), training=False) / 3,
        lambda x: F.max_pool2d(enter_lanes(x), 2),
        lambda x: F.max_pool2d(F.relu(batch_norm(enter_lanes(x))), 2),
        lambda x: F.max_pool2d(F.relu(batch_norm(enter_lanes(x)) + enter_lanes(x)), 2),
    ],
)
def test_gradcheck(function):
    x = plain(2, 4, 3, 4).requires_grad_()
    assert gradcheck(function, x)
    assert gradgradcheck(function, x)


def test_hooks_and_retained_gradients():
    seen = []
    grads = []
    for convert in (lambda x: x, enter_lanes):
        x = X.clone().requires_grad_()
        y = convert(x)
        y.register_hook(lambda g: seen.append(g) or 2 * g)
        z = F.relu(batch_norm(y))
        z.retain_grad()
        (z * OTHER).sum().backward()
        grads.append((x.grad, z.grad))
    torch.testing.assert_close(seen[1].dense(), seen[0])
    torch.testing.assert_close(grads[1][0], grads[0][0])
    assert torch.equal(grads[1][1], grads[0][1])
    assert type(grads[1][0]) is torch.Tensor


def test_a_leaf_accumulates():
    y = enter_lanes(X).detach().requires_grad_()
    for _ in range(3):
        F.relu(y).backward(enter_lanes(OTHER))
    assert torch.equal(y.grad, OTHER * 3 * (X > 0))


def test_saved_tensors_hooks():
    x = X.clone().requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        out = F.max_pool2d(F.relu(batch_norm(enter_lanes(x))), 2)
    out.sum().backward()
    y = X.clone().requires_grad_()
    F.max_pool2d(F.relu(batch_norm(y)), 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_inference_mode():
    with torch.inference_mode():
        y = F.relu(batch_norm(enter_lanes(X)))
    assert torch.equal(y.dense(), y.clone().dense())
    torch.testing.assert_close(y.dense(), F.relu(batch_norm(X)))
