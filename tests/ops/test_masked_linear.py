"""masked_linear and its gradients against the oracle."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselth.ops import masked_linear, reference
from sparselth.ops.plan import conv_plan

ops = torch.ops.sparselth


@given(
    batch=st.sampled_from([0, 1, 3, 8, 33, 150]),
    c_in=st.integers(1, 40),
    c_out=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    with_plan=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    transposed=st.booleans(),
)
@settings(max_examples=300)
def test_matches_the_oracle(batch, c_in, c_out, density, with_plan, dtype, transposed):
    x = (
        torch.randn(c_in, batch, dtype=dtype).t()
        if transposed
        else torch.randn(batch, c_in, dtype=dtype)
    )
    weight = torch.randn(c_out, c_in, dtype=dtype)
    mask = torch.rand(c_out, c_in) < density
    bias = torch.randn(c_out, dtype=dtype)
    grad = torch.randn(batch, c_out, dtype=dtype)
    plan = conv_plan(mask) if with_plan else None
    close = (
        {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    )
    for name, a, b in (
        ("masked_linear", (x, weight, mask, bias, plan), (x, weight, mask, bias, None)),
        ("masked_linear_grad_input", (grad, weight, mask, plan), (grad, weight, mask, None)),
        ("masked_linear_grad_weight", (grad, x, mask, plan, True), (grad, x, mask, None, True)),
    ):
        torch.testing.assert_close(getattr(ops, name)(*a), reference.oracle(name)(*b), **close)


@pytest.mark.parametrize("shape", [(12,), (0, 12), (2, 3, 12)])
def test_leading_dimensions(shape):
    x, weight = torch.randn(shape), torch.randn(5, 12)
    mask = torch.rand(5, 12) < 0.5
    want = torch.nn.functional.linear(x, weight * mask)
    torch.testing.assert_close(masked_linear(x, weight, mask), want, rtol=1e-4, atol=1e-5)


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(ValueError, match=r"x must end in 4 features, got shape \(2, 5\)"):
        masked_linear(torch.randn(2, 5), torch.randn(3, 4), torch.ones(3, 4, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [None, (), (1,)])
@pytest.mark.parametrize("outputs", [None, 1, 5])
def test_what_linear_broadcasts(shape, bias, outputs):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn((4,) if outputs is None else (outputs, 4), dtype=torch.float64)
    weight.requires_grad_()
    mask = torch.rand(weight.shape) < 0.5
    if bias is not None:
        bias = torch.randn(bias, dtype=torch.float64, requires_grad=True)
    # Of a scalar bias F.linear's own broadcasting differs between versions of torch.
    want = torch.nn.functional.linear(x, weight * mask)
    want = want if bias is None else want + bias.reshape(())
    got = masked_linear(x, weight, mask, bias)
    torch.testing.assert_close(got, want)
    leaves = [t for t in (x, weight, bias) if t is not None]
    grads = (torch.autograd.grad(y.square().sum(), leaves) for y in (got, want))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(2, 2, 2)}, r"\(C_out, C_in\) or \(C_in,\), got shape \(2, 2, 2\)"),
        ({"mask": torch.ones(4).bool()}, r"mask has shape \(4,\), its weight \(3, 4\)"),
        ({"bias": torch.ones(2)}, r"bias must be \(3,\), got \(2,\)"),
        ({"bias": 1.0}, "bias must be a torch tensor, got float"),
        ({"plan": torch.ones(3)}, "plan must be int32.*got torch.float32"),
        ({"weight": torch.ones(4)}, r"mask has shape \(3, 4\), its weight \(4,\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    good = {"x": torch.ones(2, 4), "weight": torch.ones(3, 4), "mask": torch.ones(3, 4).bool()}
    with pytest.raises(ValueError, match=message):
        masked_linear(**{**good, **change})
