"""What enters lanes, and leaves them as it was; an activation is converted once."""

import pytest
import torch
from support.lane_values import X, plain
from support.strategies import FLOATS

import sparselth as sl
from sparselth.ops.lanes.convert import LaneTensor, can_use_lanes, enter_lanes

pytestmark = [pytest.mark.usefixtures("traveling", "one_thread")]


@pytest.mark.parametrize("batch", [1, 2, 8, 11])
@pytest.mark.parametrize("dtype", FLOATS)
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
    for x in (X[0], X[:0], X.long(), X.to("meta"), X.to_sparse(), X.float().to_mkldnn()):
        assert not can_use_lanes(x)
    assert not torch.func.vmap(lambda x: torch.tensor(can_use_lanes(x)))(X[None]).any()


def test_nothing_is_accepted_without_compiled_kernels(monkeypatch):
    monkeypatch.setattr("sparselth.ops.libraries.has_kernel", lambda op, backend: False)
    assert not can_use_lanes(X)


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


def test_a_reference_forced_stays_plain():
    weight, mask = plain(2, 4, 3, 3), torch.rand(2, 4, 3, 3) < 0.3
    with sl.use_backend("reference"):
        out = sl.ops.masked_conv2d(enter_lanes(X), weight, mask)
    assert type(out) is torch.Tensor
    torch.testing.assert_close(sl.ops.masked_conv2d(enter_lanes(X), weight, mask).dense(), out)
