"""What records, counts or compiles a masked model: torch.fx, flop counters, jit, export."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sparselth as sl


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 24), nn.Linear(24, 10),
    )  # fmt: skip


X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def sparse(sparsity=0.9):
    model = net()
    return sl.sparsify(model, sl.find_masks(model, sparsity=sparsity))


@pytest.mark.parametrize("choice", sl.ops.kernel_choice.decide.MODES)
def test_the_flops_are_those_of_the_dense_model(choice):
    totals = []
    with sl.use_choice(choice):
        for model in (net(), sparse()):
            model(X)
            with FlopCounterMode(display=False) as counter:
                model(X).sum().backward()
            totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0


def test_the_functions_are_counted():
    weight, mask = torch.randn(4, 3, 3, 3), torch.rand(4, 3, 3, 3) < 0.2
    with FlopCounterMode(display=False) as counter:
        sl.ops.masked_conv2d(X, weight, mask)
        sl.ops.masked_linear(torch.ones(5, 6), torch.ones(2, 6), torch.ones(2, 6).bool())
    assert counter.get_total_flops() == 2 * 8 * 4 * 100 * 27 + 2 * 5 * 6 * 2


def test_the_ops_themselves_are_counted_in_every_pass():
    ops = torch.ops.sparselth
    x, grad = torch.randn(8, 3, 6, 6), torch.randn(8, 4, 6, 6)
    weight, mask = torch.randn(4, 3, 3, 3), torch.rand(4, 3, 3, 3) < 0.2
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    rows, out, matrix, kept = torch.ones(5, 6), torch.ones(5, 2), torch.ones(2, 6), torch.ones(2, 6)
    convolution, linear = 2 * grad.numel() * 27, 2 * 5 * 6 * 2
    for flops, call in [
        (convolution, lambda: ops.masked_conv2d(x, weight, mask, None, None, *geometry)),
        (convolution, lambda: ops.masked_conv2d_grad_input(
            grad, weight, mask, None, [6, 6], *geometry)),
        (convolution, lambda: ops.masked_conv2d_grad_weight(grad, x, mask, None, *geometry)),
        (linear, lambda: ops.masked_linear(rows, matrix, kept.bool(), None, None)),
        (linear, lambda: ops.masked_linear_grad_input(out, matrix, kept.bool(), None)),
        (linear, lambda: ops.masked_linear_grad_weight(out, rows, kept.bool(), None, True)),
    ]:  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            call()
        assert counter.get_total_flops() == flops


@pytest.mark.parametrize("after", [False, True])
def test_a_backward_is_counted_alone_too(after):
    totals = []
    for model in (net(), sparse()):
        inner = model[3:](model[:3](X)) if after else None  # what lies between them is in lanes
        with FlopCounterMode(display=False) as counter:
            (model(X) if inner is None else inner).sum().backward()
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0


def test_masked_layers_are_leaves_of_an_fx_graph():
    model = sparse().eval()
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(X), model(X))
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {"0", "1", "3", "8"} <= called
    other = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ConvTranspose1d(6, 4, 3))
    sl.sparsify(other, sl.find_masks(other, sparsity=0.5, exclude=()))
    x = torch.randn(2, 4, 9)
    assert torch.equal(torch.fx.symbolic_trace(other)(x), other(x))


def test_jit_script_says_what_to_do_and_leaves_the_model():
    model = sparse().eval()
    kinds = [type(module) for module in model]
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match="script a plain copy"):
            torch.jit.script(model)
    assert [type(module) for module in model] == kinds
    scripted = torch.jit.script(sl.densify(copy.deepcopy(model)))
    torch.testing.assert_close(scripted(X), model(X))


def test_a_jit_trace_and_an_export_are_dense_with_zeros():
    model = sparse().eval()
    traced = torch.jit.trace(model, X)
    torch.testing.assert_close(traced(X), model(X))
    assert "sparselth::" not in str(traced.inlined_graph)
    program = torch.export.export(model, (X,))
    torch.testing.assert_close(program.module()(X), model(X))
    assert not [n for n in program.graph.nodes if "sparselth" in str(n.target)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_every_kind_compiles_as_a_whole(backend):
    for layer, shape in (
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
        (nn.Conv3d(4, 6, 3), (2, 4, 5, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5)),
    ):
        model = nn.Sequential(layer)
        sl.sparsify(model, sl.find_masks(model, sparsity=0.7, exclude=()))
        x = torch.randn(shape)
        program = torch.compile(model, backend=backend, fullgraph=True)
        torch.testing.assert_close(program(x), model(x))
