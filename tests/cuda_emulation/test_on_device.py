"""The CUDA kernels on a device: the emulation's cases, large sizes, streams, graphs, layouts."""

from __future__ import annotations

import copy

import pytest
import torch
from support.emulated import answers, cases, conv_cases

import sparselth as sl
from sparselth.ops import reference
from sparselth.ops.patterns import NOfM, find_pattern

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ops = torch.ops.sparselth


def on_device(case: cases.Case) -> list[list[torch.Tensor]]:
    """Return the case's lists on the device, each tensor `offset` elements into its memory."""

    def move(x: torch.Tensor, offset: int) -> torch.Tensor:
        memory = torch.empty(x.numel() + offset, dtype=x.dtype, device="cuda")
        return memory[offset:].view(x.shape).copy_(x)

    return [
        [move(x, offset) for x, offset in zip(tensors, case.offsets, strict=True)]
        if tensors
        else []
        for tensors in case.lists
    ]


def outputs(case: cases.Case) -> list[torch.Tensor]:
    """Run the op on the device and return what the oracle lists, in its order."""
    lists = on_device(case)
    selected = (case.given_k, case.global_, case.pattern)
    if case.op == "topk_mask":
        masks, nonfinite = ops.topk_mask(*lists, *selected)
        return [*masks, nonfinite]
    if case.op == "weight_overlap":
        counts = ops.weight_overlap(*lists, case.k).flatten()
        return [torch.cat([counts, torch.zeros_like(counts)])]
    if case.op == "admm_project_":
        w, u, z = lists
        residuals = ops.admm_project_(w, z, u, *selected, case.allow_nonfinite)
        return [t for pair in zip(u, z, strict=True) for t in pair] + [residuals]
    if case.op == "masked_adamw_":
        *settings, step, _ = case.settings
        steps = [step.float().cuda() for step in answers.own_steps(case)]
        ops.masked_adamw_(*lists, steps, int(step), *settings)
        return [t for three in zip(lists[0], *lists[2:4], strict=True) for t in three]
    lr, momentum, dampening, weight_decay, nesterov, rho = case.settings
    w, grads, momenta, masks, z, u = lists
    given = momenta if momentum else []
    settings = (lr, momentum, dampening, weight_decay, bool(nesterov), rho)
    ops.masked_sgd_(w, grads, given, masks, z, u, *settings)
    return [t for pair in zip(w, momenta, strict=True) for t in pair]


def assert_agrees(case: cases.Case) -> None:
    for (name, want, exact), got in zip(answers.oracle(case), outputs(case), strict=True):
        got = got.cpu()
        same = torch.equal(answers.bits(got), answers.bits(want)) if exact else None
        assert same or (not exact and answers.close(got, want)), f"{name}: {case.label}"


@pytest.mark.parametrize("op", cases.OPS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda dtype: str(dtype).split(".")[1])
def test_kernel_agrees_with_the_oracle(op, dtype):
    for case in cases.cases_of(op, dtype, range(32)):
        assert_agrees(case)


CONVOLUTIONS = [
    *((op, dtype) for op in conv_cases.ENTRIES for dtype in conv_cases.DTYPES),
    *((op, dtype) for op in conv_cases.VECTORS for dtype in conv_cases.HALVES),
    *((op, dtype) for op in conv_cases.BLOCKS for dtype in conv_cases.HALVES),
]


def assert_convolution_agrees(case: conv_cases.Case) -> None:
    moved = [a.cuda() if isinstance(a, torch.Tensor) else a for a in case.arguments]
    got = getattr(ops, case.op)(*moved).cpu()
    assert got.dtype == case.dtype
    assert conv_cases.close(got, case.oracle()), case.label


@pytest.mark.parametrize(("op", "dtype"), CONVOLUTIONS, ids=str)
def test_convolution_agrees_with_the_oracle(op, dtype):
    for case in conv_cases.cases_of(op, dtype, range(64)):
        assert_convolution_agrees(case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", [(64, 32), (256, 8), (512, 4)], ids=str)
def test_a_large_convolution_by_the_forced_backend(layer, dtype):
    """Through autograd: single weights in float32, vectors of them in bfloat16."""
    channels, size = layer
    x = torch.randn(33, channels, size, size, device="cuda", dtype=dtype, requires_grad=True)
    shape = (channels, channels, 3, 3)
    weight = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)
    mask = torch.rand(shape, device="cuda") < 0.02

    def passes(x, weight):
        y = sl.ops.masked_conv2d(x, weight, mask, padding=1)
        return y, *torch.autograd.grad(y, (x, weight), torch.ones_like(y))

    with sl.use_backend("cuda"):
        got, again = passes(x, weight), passes(x, weight)
    with sl.use_backend("reference"):
        want = passes(*(t.detach().double().requires_grad_() for t in (x, weight)))
    for a, b, c in zip(got, want, again, strict=True):
        assert (a.double() - b).norm() < max(4 * torch.finfo(dtype).eps, 1e-5) * b.norm()
        assert torch.equal(a, c)


@pytest.mark.parametrize("pattern", ["16x1", "32x32", "filter", "channel", "kernel", "2:4"])
def test_a_large_weight_in_groups(pattern):
    weight = torch.randn(512, 512, 3, 3, device="cuda")
    found = find_pattern(pattern)
    k = [] if isinstance(found, NOfM) else [found.groups(weight.shape) // 10]
    got, _ = ops.topk_mask([weight], k, False, found.encode())
    want, _ = reference.topk_mask([weight.cpu()], k, False, found.encode())
    assert torch.equal(got[0].cpu(), want[0])


@pytest.mark.parametrize("global_", [False, True])
def test_millions_of_values(global_):
    scores = [torch.randn(n, device="cuda").round(decimals=2) for n in (3_000_001, 17, 1_234_567)]
    k = [1_000_003] if global_ else [30_001, 5, 1_000_000]
    got, _ = ops.topk_mask(scores, k, global_, [])
    for a, b in zip(got, reference.topk_mask(scores, k, global_, [])[0], strict=True):
        assert torch.equal(a, b)


def test_two_runs_give_the_same_bits():
    def run():
        g = torch.Generator("cuda").manual_seed(3)
        w, z, u = ([torch.randn(1_000_003, device="cuda", generator=g)] for _ in range(3))
        return [ops.admm_project_(w, z, u, [100_000], False, [], False), *z, *u]

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


def test_a_side_stream_is_respected():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the scores are written long after the call is queued
        scores = torch.randn(100_000, device="cuda")
        (mask,), _ = ops.topk_mask([scores], [1000], False, [])
    stream.synchronize()
    assert torch.equal(mask, reference.topk_mask([scores], [1000], False, [])[0][0])


def test_projection_and_step_in_a_cuda_graph():
    w, z, u, grad = (torch.randn(50_000, device="cuda") for _ in range(4))
    mask = torch.rand(50_000, device="cuda") < 0.5
    start = [t.clone() for t in (w, z, u)]

    def step():
        ops.admm_project_([w], [z], [u], [5000], False, [], False)
        ops.masked_sgd_([w], [grad], [], [mask], [], [], 0.1, 0.0, 0.0, 0.0, False, 0.0)

    step()
    want = [t.clone() for t in (w, z, u)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for tensor, first in zip((w, z, u), start, strict=True):
        tensor.copy_(first)
    graph.replay()
    for got, expected in zip((w, z, u), want, strict=True):
        assert torch.equal(got, expected)


def test_an_adamw_step_that_counts_itself_in_a_cuda_graph():
    model = torch.nn.Linear(100, 50).cuda()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    twin = copy.deepcopy(model)
    ours = sl.optim.AdamW(model.parameters(), lr=0.01, capturable=True)
    plain = sl.optim.AdamW(twin.parameters(), lr=0.01)
    grads = [torch.randn_like(p) for p in model.parameters()]
    for network in (model, twin):
        for parameter, grad in zip(network.parameters(), grads, strict=True):
            parameter.grad = grad.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda.set_sync_debug_mode("error")
        ours.step()
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        plain.step()
    assert ours.state[model.weight]["step"].item() == 4
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_channels_last_and_strided_tensors():
    shape = (8, 6, 3, 3)
    w, g, m, z, u = (torch.randn(shape, device="cuda") for _ in range(5))
    mask = torch.rand(shape, device="cuda") < 0.3
    last = torch.channels_last
    got = [t.clone(memory_format=last) for t in (w, m, z, u)]
    ops.masked_sgd_(got[:1], [g], got[1:2], [mask], [], [], 0.1, 0.9, 0.0, 0.01, True, 0.0)
    ops.admm_project_(got[:1], got[2:3], got[3:4], [100], False, [], False)
    reference.masked_sgd_([w], [g], [m], [mask], [], [], 0.1, 0.9, 0.0, 0.01, True, 0.0)
    reference.admm_project_([w], [z], [u], [100], False, [], False)
    for a, b in zip(got, (w, m, z, u), strict=True):
        torch.testing.assert_close(a, b)
        assert a.is_contiguous(memory_format=last)
