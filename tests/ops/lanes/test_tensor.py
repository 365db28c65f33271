"""LaneTensor behaves as the plain tensor it stands for, whatever is done to it."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.lane_values import OTHER, SCALE, X, batch_norm, plain

from sparselth.ops.lanes.convert import enter_lanes

pytestmark = [pytest.mark.usefixtures("traveling", "one_thread")]

# What makes tensors in each of the states: a buffer, sums of one and two terms.
STATES = {
    "buffer": lambda x: x,
    "batch norm": batch_norm,
    "sum": lambda x: batch_norm(x) + x,
    "relu": lambda x: F.relu(batch_norm(x)),
    "gradient": lambda x: torch.ops.aten.threshold_backward(x, F.relu(x), 0),
    "plain for good": lambda x: (x * 1.0, (y := x.clone()).view(-1), y)[-1],
}

OPS = {
    "relu": F.relu,
    "relu_": lambda x: x.clone().relu_(),
    "relu6": lambda x: F.relu6(9 * x),
    "relu6_": lambda x: F.relu6(9 * x, inplace=True),
    "hardtanh from zero": lambda x: F.hardtanh(x, 0.0, 0.5),
    "hardtanh_ from zero": lambda x: F.hardtanh(x.clone(), 0.0, 0.5, inplace=True),
    "hardtanh": F.hardtanh,
    "add": lambda x: x + x,
    "add scaled": lambda x: torch.add(x, x, alpha=2),
    "add plain": lambda x: x + OTHER,
    "plain add": lambda x: OTHER + x,
    "add number": lambda x: x + 1,
    "add broadcast": lambda x: x + SCALE.view(1, 4, 1, 1),
    "add_": lambda x: x.clone().add_(x),
    "add_ plain": lambda x: x.clone().add_(OTHER),
    "plain add_": lambda x: OTHER.clone().add_(x),
    "mul": lambda x: 3 * x,
    "mul zero": lambda x: x * 0.0,
    "mul inf": lambda x: x * float("inf"),
    "mul tensor": lambda x: x * x,
    "mul_": lambda x: x.clone().mul_(2),
    "div": lambda x: x / 4,
    "div zero": lambda x: x / 0,
    "max pool": lambda x: F.max_pool2d(x, 2),
    "max pool, padded": lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0)),
    "max pool, ceil": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "max pool, dilated": lambda x: F.max_pool2d(x, 2, dilation=2),
    "max pool indices": lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[1],
    "unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "avg pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive 2": lambda x: F.adaptive_avg_pool2d(x, 2),
    "batch norm": batch_norm,
    "batch norm, eval": lambda x: batch_norm(x, training=False),
    "batch norm, bare": lambda x: F.batch_norm(x, None, None, training=True),
    "sum": lambda x: x.sum((0, 2, 3)),
    "sum all": lambda x: x.sum(),
    "slice": lambda x: x[1:, ::2, 1:-1],
    "mask": lambda x: x[x > 0],
    "flatten": lambda x: x.flatten(1),
    "transpose": lambda x: x.transpose(1, 2),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "cast": lambda x: x.float(),
    "cat": lambda x: torch.cat([x, OTHER, x], 1),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "leaky": lambda x: F.leaky_relu(x, inplace=False),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "conv": lambda x: F.conv2d(x, plain(2, 4, 3, 3)),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "where": lambda x: torch.where(x > 0, x, -x),
    "write to a view": lambda x: ((y := x.clone())[:, 1].mul_(3), y)[-1],
    "write": lambda x: ((y := x.clone()).__setitem__((slice(None), 0), 7.0), y)[-1],
    "zeros_like": torch.zeros_like,
    "unbind": lambda x: x.unbind(0)[1],
}


def run(state, op, x):
    torch.manual_seed(0)
    return OPS[op](STATES[state](x))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("op", OPS)
def test_every_op_computes_and_differentiates_what_it_does_on_a_plain_tensor(state, op):
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    want, got = run(state, op, x), run(state, op, enter_lanes(y))
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert got.requires_grad == want.requires_grad
    torch.testing.assert_close(got + 0, want + 0, equal_nan=True)
    if want.requires_grad and want.isfinite().all():
        seed = torch.randn_like(want)
        want.backward(seed)
        got.backward(seed)
        torch.testing.assert_close(y.grad, x.grad)


def test_what_reads_memory_directly():
    y = enter_lanes(X)
    assert np.array_equal(y.numpy(), X.numpy())
    assert np.array_equal(np.asarray(y), X.numpy())
    assert np.array_equal(np.from_dlpack(y), X.numpy())
    assert torch.equal(torch.from_dlpack(y), X)
    assert y.tolist() == X.tolist()
    assert y[0, 0, 0, 0].item() == X[0, 0, 0, 0].item()
    assert repr(y) == repr(X)
    assert f"{y.sum():.3f}" == f"{X.sum():.3f}"
    assert torch.equal(y.data, X)
    with pytest.raises(RuntimeError, match="requires grad"):
        enter_lanes(X.clone().requires_grad_()).numpy()
    assert repr(enter_lanes(X.clone().requires_grad_())).endswith("requires_grad=True)")


@pytest.mark.parametrize("requires_grad", [False, True])
def test_copies_and_files_hold_plain_tensors(requires_grad):
    y = enter_lanes(X).detach().requires_grad_(requires_grad)
    buffer = io.BytesIO()
    torch.save({"y": y}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)["y"]
    for twin in (copy.deepcopy(y), pickle.loads(pickle.dumps(y)), loaded, copy.deepcopy([y, y])[1]):
        assert type(twin) is torch.Tensor
        assert torch.equal(twin, X)
        assert twin.requires_grad == requires_grad
    with torch.no_grad():
        assert y.zero_() is y
    assert torch.equal(loaded, X)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(enter_lanes(X.clone().requires_grad_()))


def test_results_given_by_out():
    y = enter_lanes(X)
    assert torch.add(OTHER, 1, out=y) is y
    assert torch.equal(y, OTHER + 1)
    message = "give one of the result's shape"
    with pytest.warns(UserWarning, match="resized"), pytest.raises(RuntimeError, match=message):
        torch.add(OTHER[:, :2], 1, out=enter_lanes(X))
    target = torch.empty(3, 4, 5, 6, dtype=torch.float64)
    assert torch.add(y, 1, out=target) is target
    torch.testing.assert_close(target, OTHER + 2)


def test_in_place_changes_of_shape():
    y = enter_lanes(X)
    alias = y.detach()
    assert y.unsqueeze_(0) is y
    assert y.shape == (1, 3, 4, 5, 6)
    assert alias.shape == X.shape
    y.transpose_(3, 4).mul_(2)
    assert torch.equal(y, 2 * X.unsqueeze(0).transpose(3, 4))
    assert torch.equal(y.detach(), 2 * X.unsqueeze(0).transpose(3, 4))
    assert torch.equal(alias, 2 * X)


def test_lists_of_tensors():
    a, b = enter_lanes(X), enter_lanes(OTHER)
    torch._foreach_mul_([a, b], 2.0)
    assert torch.equal(a, 2 * X)
    assert torch.equal(b, 2 * OTHER)
    assert torch.equal(torch.stack([a, b]), 2 * torch.stack([X, OTHER]))


def test_what_reads_memory_past_the_dispatcher_reads_plain_values():
    y, plain = enter_lanes(X), X.clone()
    assert list(y.storage()) == X.flatten().tolist()
    assert y.apply_(lambda v: v * 2) is y
    plain.apply_(lambda v: v * 2)
    assert torch.equal(y, plain)
    y.map_(enter_lanes(X), lambda a, b: a + b)
    plain.map_(X, lambda a, b: a + b)
    assert torch.equal(y, plain)
    y.map2_(enter_lanes(X), X, lambda a, b, c: a - b * c)
    plain.map2_(X, X, lambda a, b, c: a - b * c)
    assert torch.equal(y, plain)
    z = enter_lanes(X)
    assert z.share_memory_() is z
    assert torch.equal(z, X)
