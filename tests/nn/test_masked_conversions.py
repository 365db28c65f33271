"""Where activations enter lanes and leave them, and how few passes over memory are between."""

import pytest
import torch
from support.traveling_nets import NETS, Residual, conv, head, images, masks_for, sparse
from torch import nn
from torch.profiler import ProfilerActivity, profile

import sparselth as sl
from sparselth.models import build
from sparselth.ops.lanes.convert import LaneTensor
from sparselth.ops.lanes.handlers import norm

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


def record(function):
    """Return what a function ran: op name -> number of calls."""
    with profile(activities=[ProfilerActivity.CPU]) as recorder:
        function()
    return {event.key.removeprefix("sparselth::"): event.count for event in recorder.key_averages()}


def record_forward(model):
    """Return what the forward of three images ran, and its result."""
    results = []
    return record(lambda: results.append(model(images(3)))), results[0]


def test_a_residual_network_converts_at_its_ends_alone():
    model = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), Residual(8, 8), Residual(8, 12, 2), *head(12)
    ).double()
    masks = masks_for(model)
    del masks["0.weight"]  # as is usual, the first convolution stays dense
    sl.sparsify(model, masks)
    calls, out = record_forward(model)
    assert calls["to_lanes"] == 1
    assert calls["from_lanes"] == 1
    # Batch norm, addition and ReLU are part of what a convolution reads. Two activations are needed
    # for themselves: the stem's, which the identity branch adds, and the last, which is pooled.
    assert calls["lanes_fused_conv2d"] == 5
    assert "lanes_conv2d" not in calls
    assert calls["lanes_scale_add_relu"] == 2
    calls = record(lambda: out.sum().backward())
    assert calls["to_lanes"] == 1
    assert calls["from_lanes"] == 1
    assert calls["lanes_batch_norm_backward"] == 6
    assert calls["lanes_fused_conv2d_backward"] + calls["lanes_conv2d_backward"] == 5
    # Gates go with batch norms, or with the addition of the identity branch's gradient; the
    # branches of the downsampling block meet without a gate.
    assert calls["lanes_relu_backward_add"] == 1
    assert calls["lanes_scale_add_relu"] == 1


def test_mobilenet_stays_in_lanes_between_its_ends():
    model = build("mobilenetv2", width=0.25).double()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9))
    calls, out = record_forward(model)
    assert (calls["to_lanes"], calls["from_lanes"]) == (1, 1)
    # Norms, their ReLU6 and additions are part of what the 51 masked convolutions read, but for the
    # last, which is pooled.
    assert calls["lanes_fused_conv2d"] == 51
    assert calls["lanes_scale_add_relu"] == 1
    calls = record(lambda: out.sum().backward())
    assert (calls["to_lanes"], calls["from_lanes"]) == (1, 1)
    # Gates go with the norms before them, unread; gradients of branches are added.
    assert "lanes_relu_backward_add" not in calls
    assert calls["lanes_scale_add_relu"] == 10


@pytest.mark.parametrize("between", [nn.Identity, lambda: nn.MaxPool2d(2)])
def test_a_relu_after_a_batch_norm_is_not_read_again(between, monkeypatch):
    gates = []

    def noted(*given):
        gates.append(arguments(*given))
        return gates[-1]

    arguments = norm._gate_arguments
    monkeypatch.setattr(norm, "_gate_arguments", noted)
    model = sparse(
        nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), between(), conv(8, 8), *head(8))
    )
    model(images(3)).sum().backward()
    ((gate, _, scale, shift),) = gates
    assert gate is None
    assert scale.shape == shift.shape == (8,)


def test_pooling_stays_in_lanes():
    model = sparse(NETS["pooling"]())
    calls, out = record_forward(model)
    assert (calls["to_lanes"], calls["from_lanes"]) == (1, 1)
    # Pooling computes norms and ReLUs as it reads; the last, which leaves the lanes, is computed.
    assert (calls["lanes_max_pool2d"], calls["lanes_scale_add_relu"]) == (2, 1)
    calls = record(lambda: out.sum().backward())
    assert calls["to_lanes"] == 1
    assert "from_lanes" not in calls
    assert calls["lanes_max_pool2d_backward"] == 2
    assert "lanes_scale_add_relu" not in calls
    assert "lanes_relu_backward_add" not in calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("relu", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.Identity])
def test_what_is_pooled_is_never_computed_on_its_own(norm, relu, dtype):
    layers = (conv(3, 8, bias=True), norm(8), relu(True), nn.MaxPool2d(2), conv(8, 8))
    model = nn.Sequential(*layers).to(dtype)
    # Sparse enough for both types.
    sl.sparsify(model, {f"{i}.weight": torch.rand(model[i].weight.shape) < 0.1 for i in (0, 4)})
    results = []
    calls = record(lambda: results.append(model(images(3).to(dtype).requires_grad_())))
    calls |= record(lambda: results[0].sum().backward())
    assert calls["lanes_max_pool2d"] == calls["lanes_max_pool2d_backward"] == 1
    assert "lanes_scale_add_relu" not in calls
    # Without a norm the ReLU's gate is what it is given, which is there.
    assert calls.get("lanes_relu_backward_add", 0) == (norm is nn.Identity)


def test_a_sum_of_two_is_computed_once_for_pooling():
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), Residual(8, 8), nn.MaxPool2d(2))
    calls, _ = record_forward(sparse(model))
    assert calls["lanes_max_pool2d"] == 1
    assert calls["lanes_scale_add_relu"] == 1


def test_an_activation_seen_by_the_user_goes_on_in_lanes():
    model = sparse(nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8)))
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    calls = record(lambda: model(images(2)))
    assert (calls["to_lanes"], calls["from_lanes"]) == (2, 1)
    assert calls["lanes_conv2d"] + calls["lanes_fused_conv2d"] == 3


def test_the_reference_stays_plain():
    model = sparse(NETS["residual"]())
    with sl.use_backend("reference"):
        calls = record(lambda: model(images(2)))
    assert not any("lanes" in name for name in calls)


def test_a_convolution_of_the_user_sees_and_returns_activations():
    model = sparse(nn.Sequential(conv(3, 8), conv(8, 4)))
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = images(2)
    out = model(x)
    assert isinstance(out, LaneTensor)
    with sl.use_backend("reference"):
        torch.testing.assert_close(seen[0].dense(), model[0](x))
    torch.testing.assert_close(model(x[0]), out[0])
    assert out.shape == (2, 4, 9, 9)
    assert [module.weight.grad for module in model] == [None, None]
