"""masked_linear of activations stored in 16 bits, and computed in float32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounding import assert_equal_bits, hard_to_round
from support.strategies import NARROW
from torch.library import opcheck

from sparselth.ops.libraries import has_kernel
from sparselth.ops.plan import conv_plan

ops = torch.ops.sparselth
with_kernels = pytest.mark.skipif(
    not has_kernel("masked_linear", "cpu"), reason="the compiled kernels are not there"
)


def assert_rounded_once(got, exact, sums, terms):
    """Compare with results in float64: sums of so many terms in float32, rounded once.

    sums: of absolute values, in place of what is summed.
    """
    lost = (terms + 1) * 2**-24 * sums
    if got.dtype in NARROW:
        half_a_step = torch.finfo(got.dtype).eps / 2
        below = {torch.bfloat16: 2**-134, torch.float16: 2**-25}[got.dtype]  # of denormals
        lost = lost + half_a_step * (exact.abs() + lost) + below
    assert ((got.double() - exact).abs() <= lost).all()


def three_passes(x, grad, weight, mask, bias, plan=None, wide=True):
    return (
        ops.masked_linear(x, weight, mask, bias, plan),
        ops.masked_linear_grad_input(grad, weight, mask, plan),
        ops.masked_linear_grad_weight(grad, x, mask, plan, wide),
    )


def exactly(x, grad, weight, mask, bias):
    x, grad, weight, bias = (t.double() for t in (x, grad, weight, bias))
    kept = torch.where(mask, weight, 0.0)
    return x @ kept.t() + bias, grad @ kept, torch.where(mask, grad.t() @ x, 0.0)


def assert_all_rounded_once(got, x, grad, weight, mask, bias):
    exact = exactly(x, grad, weight, mask, bias)
    sums = exactly(*(t if t is mask else t.abs() for t in (x, grad, weight, mask, bias)))
    for result, want, size, terms in zip(
        got, exact, sums, (x.shape[1] + 1, grad.shape[1], x.shape[0]), strict=True
    ):
        assert_rounded_once(result, want, size, terms)


def drawn(batch, c_in, c_out, density, dtype=torch.bfloat16, parameters=torch.float32):
    """Return x, grad, weight, mask, bias."""
    x, grad = torch.randn(batch, c_in).to(dtype), torch.randn(batch, c_out).to(dtype)
    weight, bias = torch.randn(c_out, c_in).to(parameters), torch.randn(c_out).to(parameters)
    return x, grad, weight, torch.rand(c_out, c_in) < density, bias


@with_kernels
@given(
    batch=st.sampled_from([0, 1, 3, 8, 33, 150, 300]),
    c_in=st.integers(1, 40),
    c_out=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    with_plan=st.booleans(),
    dtype=st.sampled_from(NARROW),
    rounded_weight=st.booleans(),
    rounded_bias=st.booleans(),
    layout=st.sampled_from(["contiguous", "transposed", "gaps"]),
    wide=st.booleans(),
)
@settings(max_examples=300)
def test_16_bits_match_the_oracle_rounded_once(
    batch,
    c_in,
    c_out,
    density,
    with_plan,
    dtype,
    rounded_weight,
    rounded_bias,
    layout,
    wide,
):
    x, grad, weight, mask, bias = drawn(batch, c_in, c_out, density, dtype)
    weight = weight.to(dtype) if rounded_weight else weight
    bias = bias.to(dtype) if rounded_bias else bias
    if layout == "transposed":
        x, grad = x.t().contiguous().t(), grad.t().contiguous().t()
    elif layout == "gaps":
        x, grad = (torch.stack([t, t], -1)[..., 0] for t in (x, grad))
    plan = conv_plan(mask) if with_plan else None
    got = three_passes(x, grad, weight, mask, bias, plan, wide)
    assert [t.dtype for t in got] == [dtype, dtype, torch.float32 if wide else dtype]
    assert_all_rounded_once(got, x, grad, weight, mask, bias)
    assert not got[2][~mask].any()


# Wider than a second-level cache holds of a group of samples, going in and coming out.
@with_kernels
@pytest.mark.parametrize(("c_in", "c_out"), [(2100, 70), (70, 2100)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [*NARROW, torch.float32])
def test_groups_in_turn_match_the_oracle(c_in, c_out, threads, dtype):
    arguments = drawn(700, c_in, c_out, 0.1, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = three_passes(*arguments)
    finally:
        torch.set_num_threads(before)
    assert_all_rounded_once(got, *arguments)


@with_kernels
@pytest.mark.parametrize("dtype", [*NARROW, torch.float32])
@pytest.mark.parametrize("batch", [1, 5, 40, 300])
@pytest.mark.parametrize("channels", [(64, 9), (300, 200), (9, 1000)], ids=str)
def test_results_depend_on_no_number_of_threads(dtype, batch, channels):
    arguments = drawn(batch, *channels, 0.3, dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7, 16):
            torch.set_num_threads(threads)
            results.append(three_passes(*arguments))
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        for a, b in zip(results[0], others, strict=True):
            assert torch.equal(a, b)


@with_kernels
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("at_once", [3, 4096])  # one by one, and in vectors
def test_the_oracle_of_rounding_is_torch(at_once, dtype):
    """Ties to even, denormals kept, NaN stays NaN. As the biases of outputs without weights."""
    values = hard_to_round(dtype)
    x = torch.ones(1, 1, dtype=dtype)
    for some in values.split(at_once):
        weight = torch.zeros(len(some), 1)
        y = ops.masked_linear(x, weight, torch.zeros_like(weight).bool(), some, None)
        assert_equal_bits(y[0], some.to(dtype))
    bits = torch.randint(2**16, (4096,)).to(torch.int16)
    x, grad = bits.view(dtype).split(2048)
    mask = torch.eye(2048).bool()
    dw = ops.masked_linear_grad_weight(grad[None], x[None], mask, None, False)
    products = 0 + grad.float() * x.float()  # a sum begins at 0, which -0 is lost in
    assert_equal_bits(dw.diagonal().contiguous(), products.to(dtype))


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32])
def test_no_features_are_sums_of_nothing(dtype):
    """Going in there is the bias alone, coming out no gradient."""
    bias, nothing = torch.arange(4.0), torch.ones(4, 0)
    x, mask = torch.ones(3, 0, dtype=dtype), nothing.bool()
    y = ops.masked_linear(x, nothing, mask, bias, None)
    assert torch.equal(y, bias.to(dtype).expand(3, 4))
    dx = ops.masked_linear_grad_input(x, nothing.t(), mask.t(), None)
    assert torch.equal(dx, torch.zeros(3, 4, dtype=dtype))
    assert ops.masked_linear_grad_weight(y, x, mask, None, True).shape == (4, 0)


@pytest.mark.parametrize("dtype", NARROW)
def test_derivatives_of_16_bits_are_what_their_tensors_are(dtype):
    """Twice: gradients by a float32 weight and bias are float32, those by activations are not."""
    x, grad, weight, mask, bias = drawn(5, 7, 4, 0.5, dtype)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    got = both_orders(lambda x, w, b: ops.masked_linear(x, w, mask, b, None), leaves, grad)
    want = both_orders(
        lambda x, w, b: x @ torch.where(mask, w, 0.0).t() + b, exact_leaves, grad.double()
    )
    for a, b, leaf in zip(got, want, [*leaves, *leaves], strict=True):
        assert a.dtype == leaf.dtype
        torch.testing.assert_close(a.double(), b, rtol=0.03, atol=0.1)


def both_orders(call, leaves, grad):
    first = torch.autograd.grad(call(*leaves), leaves, grad, create_graph=True)
    total = sum(g.double().square().sum() for g in first)
    return [*first, *torch.autograd.grad(total, leaves, materialize_grads=True)]


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_opcheck_in_16_bits(parameters):
    x, grad, weight, mask, bias = drawn(5, 7, 4, 0.5, parameters=parameters)
    x, grad, weight, bias = (t.requires_grad_() for t in (x, grad, weight, bias))
    opcheck(ops.masked_linear.default, (x, weight, mask, bias, None))
    opcheck(ops.masked_linear_grad_input.default, (grad, weight, mask, None))
    for wide in (False, True):
        opcheck(ops.masked_linear_grad_weight.default, (grad, x, mask, None, wide))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("wrong", [torch.float64, torch.float16])
def test_other_weights_of_16_bits_are_refused_in_one_sentence(device, wrong):
    x, grad, weight, mask, bias = (t.to(device) for t in drawn(5, 7, 4, 0.5))
    for call, name in (
        (lambda: ops.masked_linear(x, weight.to(wrong), mask, bias, None), "weight"),
        (lambda: ops.masked_linear(x, weight, mask, bias.to(wrong), None), "bias"),
        (lambda: ops.masked_linear_grad_input(grad, weight.to(wrong), mask, None), "weight"),
        (lambda: ops.masked_linear(x.float(), weight.bfloat16(), mask, bias, None), "weight"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=f"masked_linear.*: {name} (must|is)"):
            call()
