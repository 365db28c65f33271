"""LaneTensor behaves as the plain tensor it stands for, whatever is done to it."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import sparselth as sl
from sparselth.ops.lanes.convert import LaneTensor, can_use_lanes, enter_lanes
from sparselth.ops.lanes.value import AffineSum, LaneBuffer, MaskedGrad

pytestmark = [pytest.mark.usefixtures("travelling", "one_thread")]


def plain(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X = plain(3, 4, 5, 6)
OTHER = plain(3, 4, 5, 6, seed=2)
SCALE = plain(4, seed=3)
SHIFT = plain(4, seed=4)


def batch_norm(x, training=True):
    mean = torch.zeros(4, dtype=x.dtype)
    return F.batch_norm(x, mean, mean + 1, SCALE, SHIFT, training)


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


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 8, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(batch, dtype):
    x = plain(batch, 3, 4, 5, dtype=dtype)
    y = enter_lanes(x)
    assert type(y) is LaneTensor
    assert (y.shape, y.dtype, y.stride()) == (x.shape, dtype, x.stride())
    assert y.is_contiguous()
    assert type(y.dense()) is torch.Tensor
    assert torch.equal(y.dense(), x)
    assert enter_lanes(y) is y


def test_any_strides():
    for x in (X.contiguous(memory_format=torch.channels_last), X.transpose(2, 3), X[::2, 1:]):
        assert torch.equal(enter_lanes(x), x)
    assert torch.equal(enter_lanes(X[:, :1].expand(3, 4, 5, 6)), X[:, :1].expand(3, 4, 5, 6))


def test_what_is_accepted():
    assert can_use_lanes(X)
    assert can_use_lanes(enter_lanes(X))
    assert can_use_lanes(torch.nn.Parameter(X))
    for x in (X[0], X[:0], X.half(), X.long(), X.to("meta"), X.to_sparse(), X.float().to_mkldnn()):
        assert not can_use_lanes(x)
    assert not torch.func.vmap(lambda x: torch.tensor(can_use_lanes(x)))(X[None]).any()


def test_nothing_is_accepted_without_compiled_kernels(monkeypatch):
    monkeypatch.setattr("sparselth.ops.libraries.has_kernel", lambda op, backend: False)
    assert not can_use_lanes(X)


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


def test_a_numpy_array_shares_memory():
    y = enter_lanes(X)
    y.numpy()[0, 0, 0, 0] = 42.0
    assert y[0, 0, 0, 0] == 42.0
    y.zero_()
    assert not y.numpy().any()


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


# --- sharing and writing ----------------------------------------------------------------------


def test_what_is_detached_sees_writes():
    for write in (torch.relu_, torch.Tensor.zero_, lambda x: x.add_(enter_lanes(OTHER))):
        x, y = X.clone(), enter_lanes(X)
        x_alias, y_alias = x.detach(), y.detach()
        write(x)
        assert write(y) is y
        assert y._version == y_alias._version == 1
        assert torch.equal(y, x)
        assert torch.equal(y_alias, x_alias)


def test_writes_and_views_see_each_other():
    y = enter_lanes(X)
    alias, view = y.detach(), y[1]
    view.zero_()
    y.relu_()
    alias.add_(1)
    want = X.clone()
    want[1] = 0
    want.relu_().add_(1)
    for twin in (y, alias):
        assert torch.equal(twin, want)
    assert torch.equal(view, want[1])


def test_a_clone_is_independent():
    y = enter_lanes(X)
    twin = y.clone()
    y.relu_()
    assert torch.equal(twin, X)
    twin.view(-1).zero_()
    assert torch.equal(y, X.relu())


def test_lazy_values_are_of_their_time():
    x = enter_lanes(X)
    total = batch_norm(x) + x
    want = batch_norm(X) + X
    x.zero_()
    torch.testing.assert_close(total.dense(), want)


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


def test_a_write_that_backward_would_miss_is_an_error():
    x = X.clone().requires_grad_()
    y = F.relu(enter_lanes(x))
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- laziness ---------------------------------------------------------------------------------


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


def test_an_activation_is_converted_once():
    x = X.clone().requires_grad_() * 1
    first, second = enter_lanes(x), enter_lanes(x)
    assert first._value.state.data is second._value.state.data
    first.relu_()
    assert torch.equal(enter_lanes(x), X)
    x.mul_(2)
    assert torch.equal(enter_lanes(x), X * 2)
    leaf = X.clone().requires_grad_()
    assert enter_lanes(leaf)._value.state.data is not enter_lanes(leaf)._value.state.data


# --- autograd ---------------------------------------------------------------------------------


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


def test_a_reference_forced_stays_plain():
    weight, mask = plain(2, 4, 3, 3), torch.rand(2, 4, 3, 3) < 0.3
    with sl.use_backend("reference"):
        out = sl.ops.masked_conv2d(enter_lanes(X), weight, mask)
    assert type(out) is torch.Tensor
    torch.testing.assert_close(sl.ops.masked_conv2d(enter_lanes(X), weight, mask).dense(), out)


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
