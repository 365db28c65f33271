"""masked_conv2d and its gradients: the kernel against the oracle, over drawn geometries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support.strategies import FLOATS, ConvCase, conv_cases

import sparselth as sl
from sparselth.ops import conv, masked_conv2d, reference
from sparselth.ops.contract import memory_format
from sparselth.ops.lanes.convert import enter_lanes
from sparselth.ops.lanes.handlers import conv as lanes_conv
from sparselth.ops.libraries import has_kernel
from sparselth.ops.plan import conv_plan

ops = torch.ops.sparselth


def run_all(impl, case: ConvCase, x, weight, mask, bias, grad, plan):
    """Return y, dx, dw of one implementation: `torch.ops.sparselth` or the reference module."""
    y = impl.masked_conv2d(x, weight, mask, bias, plan, *case.conv)
    dx = impl.masked_conv2d_grad_input(grad, weight, mask, plan, list(case.size), *case.conv)
    dw = impl.masked_conv2d_grad_weight(grad, x, mask, plan, *case.conv)
    return y, dx, dw


def compare(case: ConvCase, dtype, rtol, atol):
    x, weight, mask, bias = case.tensors(dtype)
    plan = conv_plan(mask, case.groups) if case.plan else None
    shape = reference.masked_conv2d(x, weight, mask, bias, None, *case.conv).shape
    grad = torch.randn(shape, dtype=torch.float64).to(dtype)
    got = run_all(ops, case, x, weight, mask, bias, grad, plan)
    wide = [t if t is None else t.double() for t in (x, weight, bias, grad)]
    want = run_all(reference, case, wide[0], wide[1], mask, wide[2], wide[3], None)
    for name, a, b in zip(("y", "dx", "dw"), got, want, strict=True):
        assert a.dtype == dtype
        assert a.shape == b.shape
        layout = {"y": memory_format(x), "dx": memory_format(grad)}.get(
            name, torch.contiguous_format
        )
        assert a.is_contiguous(memory_format=layout), f"{name}: another layout"
        torch.testing.assert_close(
            a.double(), b, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert not got[2][~mask].any(), "a pruned weight got a gradient"


@given(conv_cases())
@settings(max_examples=400)
def test_float64_matches_the_oracle(case):
    compare(case, torch.float64, rtol=1e-10, atol=1e-10)


@given(conv_cases())
@settings(max_examples=200)
def test_float32_matches_the_oracle(case):
    compare(case, torch.float32, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_relu_is_that_of_the_result(layout):
    x = torch.randn(3, 4, 6, 5).contiguous(memory_format=layout).requires_grad_()
    weight, mask = torch.randn(8, 4, 3, 3, requires_grad=True), torch.rand(8, 4, 3, 3) < 0.4
    bias = torch.randn(8, requires_grad=True)
    y = masked_conv2d(x, weight, mask, bias, padding=1)
    want = torch.autograd.grad(y.relu().square().sum(), (x, weight, bias))
    fused = ops.masked_conv2d_relu(x, weight, mask, bias, None, [1, 1], [1, 1], [1, 1], 1)
    for positive in (masked_conv2d(x, weight, mask, bias, padding=1, relu=True), fused):
        torch.testing.assert_close(positive, y.relu())
        got = torch.autograd.grad(positive.square().sum(), (x, weight, bias))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@given(case=conv_cases())
@settings(max_examples=40)
def test_16_bit_matches_the_oracle(dtype, case):
    eps = torch.finfo(dtype).eps
    compare(case, dtype, rtol=2 * eps, atol=20 * eps)


def _layer(batch=9, channels=16, size=11):
    x = torch.randn(batch, channels, size, size)
    weight = torch.randn(24, channels, 3, 3)
    return x, weight, torch.rand_like(weight) < 0.1


def test_deterministic_for_a_thread_count():
    x, _weight, mask = _layer()
    grad = torch.randn(9, 24, 11, 11)
    conv = ([1, 1], [1, 1], [1, 1], 1)
    first = ops.masked_conv2d_grad_weight(grad, x, mask, None, *conv)
    for _ in range(5):
        assert torch.equal(first, ops.masked_conv2d_grad_weight(grad, x, mask, None, *conv))


@pytest.mark.parametrize("threads", [1, 3, 7])
def test_any_thread_count(threads):
    x, weight, mask = _layer()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = masked_conv2d(x, weight, mask, padding=1)
    finally:
        torch.set_num_threads(before)
    want = torch.nn.functional.conv2d(x, weight * mask, padding=1)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)


def test_nan_under_the_mask_does_not_leak():
    x, weight, mask = _layer()
    weight[~mask] = float("nan")
    assert masked_conv2d(x, weight, mask).isfinite().all()


def test_large_images_and_odd_channels():
    x = torch.randn(2, 3, 65, 67)
    weight = torch.randn(5, 3, 7, 7)
    mask = torch.rand_like(weight) < 0.3
    y = masked_conv2d(x, weight, mask, stride=2, padding=3)
    want = torch.nn.functional.conv2d(x, weight * mask, stride=2, padding=3)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)


def test_a_plan_of_another_mask_is_refused():
    if conv_plan(torch.ones(1, 1, 1, 1, dtype=torch.bool)) is None:
        pytest.skip("plans need the compiled host module")
    x, weight, mask = _layer()
    wrong = conv_plan(torch.ones(2, 16, 3, 3, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="plan belongs to another mask"):
        masked_conv2d(x, weight, mask, plan=wrong)


X = torch.randn(2, 4, 5, 5)
W = torch.randn(6, 4, 3, 3)
M = torch.ones(6, 4, 3, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": M[:5]}, r"mask has shape \(5, 4, 3, 3\), its weight \(6, 4, 3, 3\)"),
        ({"mask": M.float()}, "mask must be bool, got torch.float32"),
        ({"mask": M.to("meta")}, "mask is on meta, its weight on cpu"),
        ({"x": X.double()}, "x is torch.float64, weight torch.float32"),
        ({"x": X[:, :3]}, "channels do not fit: x has 3"),
        ({"x": X[0, 0]}, r"x must be \(N, C_in, H, W\) or \(C_in, H, W\)"),
        ({"bias": torch.zeros(5)}, r"bias must be \(6,\), got \(5,\)"),
        ({"stride": 0}, "stride must be one or two ints >= 1, got 0"),
        ({"padding": (1, 2, 3)}, "padding must be one or two ints"),
        ({"dilation": 3}, "the kernel reaches over 7 pixels of height"),
        ({"groups": 4}, "channels do not fit"),
    ],
)
def test_bad_input_is_one_clear_sentence(change, message):
    arguments = {"x": X, "weight": W, "mask": M, **change}
    with pytest.raises(ValueError, match=message):
        conv.masked_conv2d(**arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": [2]},
        {"stride": np.int64(2), "padding": (1,)},
        {"padding": torch.Size([1, 2]), "dilation": [np.int32(2), 1]},
        {"padding": "same", "dilation": [2]},
        {"groups": np.int64(2)},
    ],
)
def test_settings_may_be_what_conv2d_takes(settings):
    x = torch.randn(2, 4, 9, 9)
    weight = torch.randn(4, 4 // int(settings.get("groups", 1)), 3, 3)
    mask = torch.rand(weight.shape) < 0.5
    # numpy's numbers in lists and as groups torch takes in some versions only.
    plain = {k: int(v) if isinstance(v, np.integer) else v for k, v in settings.items()}
    plain = {k: v if isinstance(v, (int, str)) else list(map(int, v)) for k, v in plain.items()}
    want = torch.nn.functional.conv2d(x, weight * mask, **plain)
    got = sl.ops.masked_conv2d(x, weight, mask, **settings)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [True, 1.5, "2", [], [1, 2, 3], [1.5], None, 0, np.ones(2)])
def test_settings_that_are_none_are_named(value):
    x, weight = torch.randn(2, 4, 9, 9), torch.randn(4, 4, 3, 3)
    with pytest.raises(sl.SparselthError, match="stride must be one or two ints >= 1, got"):
        sl.ops.masked_conv2d(x, weight, weight > 0, stride=value)


@pytest.mark.skipif(not has_kernel("lanes_conv2d", "cpu"), reason="no compiled kernels")
@pytest.mark.parametrize("dtype", FLOATS)
def test_images_in_lanes_take_one_pass_for_both_gradients(dtype, monkeypatch):
    x, weight, mask = _layer(size=5)
    x, weight = (t.to(dtype).requires_grad_() for t in (x, weight))
    calls = []
    real = lanes_conv._lanes_conv2d_backward
    monkeypatch.setattr(
        lanes_conv, "_lanes_conv2d_backward", lambda *a: calls.append(1) or real(*a)
    )
    monkeypatch.setattr(lanes_conv, "_lanes_fused_conv2d_backward", None)
    y = masked_conv2d(enter_lanes(x), weight, mask)
    y.float().square().sum().backward()
    assert calls == [1]
    assert (x.grad.dtype, weight.grad.dtype) == (dtype, dtype)
    assert not weight.grad[~mask].any()
