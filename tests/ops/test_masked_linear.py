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
        ("masked_linear_grad_weight", (grad, x, mask, plan), (grad, x, mask, None)),
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
