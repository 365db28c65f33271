"""MaskedLinear under autocast and in 16 bits on a CPU: what is rounded, and the short way there."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparselth as sl
from sparselth.ops.kernel_choice import measure_cpu
from sparselth.ops.kernel_choice.measure_cpu import PASSES, PassTiming, Timings
from sparselth.ops.libraries import has_kernel

with_kernels = pytest.mark.skipif(
    not has_kernel("masked_linear", "cpu"), reason="the compiled kernels are not there"
)


def layer(density=0.02, inputs=96, outputs=64, **options):
    made = nn.Linear(inputs, outputs, **options)
    return sl.sparsify(made, {"weight": torch.rand(outputs, inputs) < density})


def autocast(dtype=torch.bfloat16):
    return torch.autocast("cpu", dtype)


def refuse(*_):
    raise AssertionError("this input should have been known")


@with_kernels
@pytest.mark.parametrize("density", [0.02, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 96), (2, 3, 96), (96,), (0, 96)], ids=str)
def test_the_second_input_of_a_kind_takes_the_short_way(monkeypatch, density, dtype, shape):
    made = layer(density)
    with sl.use_choice("fixed"), autocast():
        first = made(torch.randn(shape).to(dtype))
        monkeypatch.setattr(made, "_checked", refuse)
        x = torch.randn(shape).to(dtype)
        assert made.choice(x).sparse is (density < 0.04)
        y = made(x)
    assert y.dtype == first.dtype == torch.bfloat16
    want = F.linear(x.double(), made.weight.double(), made.bias.double())
    torch.testing.assert_close(y.double(), want, rtol=0.02, atol=0.02)


@with_kernels
def test_weights_and_their_gradients_are_not_rounded():
    made = layer(1.0, inputs=2, outputs=1)
    made.weight.data[:] = torch.tensor([[1 + 2**-12, 1.0]])
    made.bias.data[:] = 2**-13
    step = 1 + 2**-7
    with sl.use_backend("cpu"), autocast():
        for _ in range(2):  # checked, and by the short way
            made.zero_grad()
            x = torch.tensor([[1.0, -1.0], [step, 0.0]], requires_grad=True)
            y = made(x)
            assert y[0].item() == 2**-12 + 2**-13
            y.backward(torch.tensor([[1.0], [2**-9 * step]], dtype=torch.bfloat16))
            assert made.weight.grad.tolist() == [[1 + 2**-9 * step**2, -1.0]]
            assert made.bias.grad.tolist() == [1 + 2**-9 * step]
            rounded = torch.tensor(2**-9 * step * (1 + 2**-12)).bfloat16()
            assert x.grad[1].tolist() == [rounded, 2**-9 * step]
            assert x.grad.dtype == made.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "around", [lambda: sl.use_choice("fixed"), lambda: sl.use_backend("reference")]
)
def test_what_dense_serves_is_linear_under_autocast(dtype, around):
    made = layer(0.5)
    plain = sl.densify(copy.deepcopy(made))
    for _ in range(2):
        x, grad = torch.randn(7, 96).to(dtype), torch.randn(7, 64).bfloat16()
        results = []
        for each in (made, plain):
            each.zero_grad()
            leaf = x.clone().requires_grad_()
            with around(), autocast():
                y = each(leaf)
            y.backward(grad)
            results.append([y, leaf.grad, each.bias.grad])
            results[-1].append(torch.where(made.weight_mask, each.weight.grad, 0))
        for a, b in zip(*results, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


@with_kernels
@pytest.mark.parametrize("dense", [(), ("forward",), ("grad_input",), ("grad_weight",), PASSES[:2]])
def test_passes_that_measuring_made_dense_round_as_torch_does(monkeypatch, dense):
    """And the choice is made by measuring, once for 16 bits."""
    asked = []

    def measured(rows, weight, mask, plan):
        asked.append((rows, weight.dtype))
        sparse, faster = PassTiming(sparse=1.0, dense=9.0), PassTiming(sparse=2.0, dense=1.0)
        return Timings({name: faster if name in dense else sparse for name in PASSES})

    monkeypatch.setattr(measure_cpu, "measure_linear", measured)
    sl.ops.kernel_choice.known.clear_choices()
    made = layer(0.1)
    plain = sl.densify(copy.deepcopy(made))
    with sl.use_choice("measured"), autocast():
        x = torch.randn(7, 96, requires_grad=True)
        choice = made.choice(x)
        assert (choice.by, choice.sparse) == ("measured", True)
        got = [made(x) for _ in range(2)]
        want = plain(x)
    assert asked == [(7, torch.bfloat16)]
    assert choice.dense_passes == set(dense)
    for y in got:
        torch.testing.assert_close(y, want, rtol=0.02, atol=0.02)
        y.float().square().sum().backward()
    assert made.weight.grad.dtype == torch.float32
    assert not made.weight.grad[~made.weight_mask].any()
    sl.ops.kernel_choice.known.clear_choices()


@with_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("cast", "bias"),
    [
        *((None, None), (torch.bfloat16, None), (torch.float16, None)),
        *((torch.bfloat16, torch.float32), (torch.float16, torch.float32)),
    ],
)
def test_layers_of_16_bits_keep_their_types(cast, bias, dtype):
    made = layer().to(dtype)
    made.bias.data = made.bias.data.to(bias or dtype)
    x = torch.randn(6, 96).to(dtype).requires_grad_()
    with sl.use_backend("cpu"), torch.autocast("cpu", cast, enabled=cast is not None):
        for _ in range(2):
            y = made(x)
            y.sum().backward()
    assert y.dtype == (cast or dtype)
    assert (x.grad.dtype, made.weight.grad.dtype) == (dtype, dtype)
    assert made.bias.grad.dtype == made.bias.dtype
    want = F.linear(x.double(), made.weight.double(), made.bias.double())
    torch.testing.assert_close(y.double(), want, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_other_types_are_refused_outside_of_autocast(backend):
    if backend == "cpu" and not has_kernel("masked_linear", "cpu"):
        pytest.skip("the compiled kernels are not there")
    made = layer()
    with sl.use_backend(backend):
        with autocast():
            made(torch.randn(2, 96))
        for _ in range(2):
            with pytest.raises((sl.SparselthError, RuntimeError), match=r"(?i)bfloat16|same dtype"):
                made(torch.randn(2, 96).bfloat16())


@with_kernels
def test_a_compiled_layer_computes_in_16_bits_too():
    made = layer()
    x = torch.randn(6, 96)
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    with sl.use_choice("fixed"), autocast():
        want, got = made(x), compiled(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)
    got.sum().backward()
    assert made.weight.grad.dtype == torch.float32
