"""Whatever shares values in lanes sees writes to them, and a copy does not."""

import pytest
import torch
import torch.nn.functional as F
from support.lane_values import OTHER, X

from sparselth.ops.lanes.convert import enter_lanes

pytestmark = [pytest.mark.usefixtures("traveling", "one_thread")]


def test_a_numpy_array_shares_memory():
    y = enter_lanes(X)
    y.numpy()[0, 0, 0, 0] = 42.0
    assert y[0, 0, 0, 0] == 42.0
    y.zero_()
    assert not y.numpy().any()


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


def test_a_write_that_backward_would_miss_is_an_error():
    x = X.clone().requires_grad_()
    y = F.relu(enter_lanes(x))
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
