"""torch's own samples of `conv2d` and `linear`, through the masked ops.

Sample and error inputs come from the test suite that torch's wheel carries. With a mask that keeps
everything the results are torch's; with another, those of torch with the weight masked.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sparselth as sl

pytest.importorskip("expecttest", reason="torch's samples need expecttest: pip install expecttest")
methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")

INFO = {
    op.name: op
    for op in methods.op_db
    if op.name in ("nn.functional.conv2d", "nn.functional.linear")
}
DENSE = {"nn.functional.conv2d": F.conv2d, "nn.functional.linear": F.linear}
MASKED = {
    "nn.functional.conv2d": sl.ops.masked_conv2d,
    "nn.functional.linear": sl.ops.masked_linear,
}
DTYPES = (torch.float32, torch.float64)
CASES = [(name, dtype) for name in INFO for dtype in DTYPES]


def called(name, x, weight, mask, bias, *settings, **named):
    if name.endswith("linear"):
        return MASKED[name](x, weight, mask, bias)
    return MASKED[name](x, weight, mask, bias, *settings, **named)


def parts(sample):
    """Return x, weight, bias and what else a sample gives."""
    given = dict(zip(("weight", "bias"), sample.args[:2], strict=False))
    named = dict(sample.kwargs)
    weight, bias = given.get("weight", named.pop("weight", None)), given.get("bias")
    bias = named.pop("bias", bias)
    return sample.input, weight, bias, sample.args[2:], named


def leaf(t):
    return None if t is None else t.detach().clone().requires_grad_()


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_samples_agree_with_torch(name, dtype):
    torch.manual_seed(0)
    count = 0
    for sample in INFO[name].sample_inputs("cpu", dtype, requires_grad=False):
        x, weight, bias, settings, named = parts(sample)
        if name.endswith("linear") and weight.dim() == 1:
            # Refused on purpose: a mask is of outputs and inputs, a vector has no outputs.
            with pytest.raises(ValueError, match="weight must be"):
                called(name, x, weight, torch.ones_like(weight, dtype=torch.bool), bias)
            continue
        for density in (1.1, 0.4):
            mask = torch.rand(weight.shape) < density
            ours, theirs = ([leaf(t) for t in (x, weight, bias)] for _ in range(2))
            got = called(name, ours[0], ours[1], mask, ours[2], *settings, **named)
            kept = theirs[1] * mask
            want = DENSE[name](theirs[0], kept, theirs[2], *settings, **named)
            grad = torch.randn_like(want)
            got.backward(grad)
            want.backward(grad)
            tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
            close = {"rtol": tolerance, "atol": tolerance}
            torch.testing.assert_close(got, want, **close)
            for mine, other in zip(ours, theirs, strict=True):
                if mine is not None:
                    torch.testing.assert_close(mine.grad, other.grad, **close)
        count += 1
    assert count > 5


@pytest.mark.parametrize("name", [name for name, op in INFO.items() if op.error_inputs_func])
def test_what_torch_refuses_is_refused(name):
    for error in INFO[name].error_inputs("cpu"):
        x, weight, bias, settings, named = parts(error.sample_input)
        mask = torch.ones(weight.shape, dtype=torch.bool)
        with pytest.raises((ValueError, TypeError)):
            called(name, x, weight, mask, bias, *settings, **named)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 4), (4, 1), (5, 5)], ids=str)
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dilation", [1, (1, 2)], ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_padding_by_name(kernel, padding, dilation, batched):
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    x = x if batched else x[0]
    weight, bias = torch.randn(4, 3, *kernel, dtype=torch.float64), torch.randn(4).double()
    mask = torch.rand(weight.shape) < 0.5
    got = sl.ops.masked_conv2d(x, weight, mask, bias, padding=padding, dilation=dilation)
    want = F.conv2d(x, weight * mask, bias, padding=padding, dilation=dilation)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


WEIGHT = torch.randn(4, 3, 3, 3)
MASK = WEIGHT > 0
X = torch.randn(2, 3, 5, 5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sl.ops.masked_conv2d(X, WEIGHT, MASK, padding="same", stride=2), "stride of 1"),
        (lambda: sl.ops.masked_conv2d(X, WEIGHT, MASK, padding="sane"), "did you mean 'same'"),
        (lambda: sl.ops.masked_conv2d(X.cfloat(), WEIGHT.cfloat(), MASK), "x is torch.complex64"),
        (lambda: sl.ops.masked_conv2d(X, WEIGHT.bool(), MASK), "weight is torch.bool"),
        (lambda: sl.ops.masked_linear(X, WEIGHT[0, 0].cfloat(), MASK[0, 0]), "weight is torch.com"),
        (lambda: sl.ops.topk_mask(WEIGHT.cfloat(), 3), "list is torch.complex64"),
        (
            lambda: sl.ops.admm_project_([MASK], [MASK], [MASK], sparsity=0.5),
            "list is torch.bool",
        ),
        (lambda: sl.ops.weight_overlap([MASK], [MASK], [1]), "list is torch.bool"),
        (
            lambda: sl.ops.masked_conv2d(X, WEIGHT, MASK.numpy()),
            "mask must be a torch bool tensor, got numpy.ndarray",
        ),
    ],
)
def test_what_is_refused_says_so_in_one_sentence(call, says):
    with pytest.raises(sl.SparselthError, match=says) as raised:
        call()
    assert "csrc" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rows", [(), (3,), (2, 5), (0,)], ids=str)
def test_a_linear_layer_without_input_features(rows):
    x, weight = torch.randn(*rows, 0, requires_grad=True), torch.randn(4, 0, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    mask = torch.ones(4, 0, dtype=torch.bool)
    y = sl.ops.masked_linear(x, weight, mask, bias)
    torch.testing.assert_close(y, F.linear(x, weight, bias))
    y.sum().backward()
    assert x.grad.shape == x.shape
    torch.testing.assert_close(bias.grad, torch.full((4,), float(torch.Size(rows).numel())))
