"""The Triton kernels of lists on a GPU: the interpreter's cases, larger ones, graphs, streams."""

from __future__ import annotations

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
pytest.importorskip("triton", reason="the kernels are Triton's")
pytest.importorskip("hypothesis", reason="it draws the cases")

import sparselth.kernels as kernels  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from support.strategies import FLOATS, WEIGHTS, tensor_lists  # noqa: E402
from support.triton import agreement  # noqa: E402

import sparselth as sl  # noqa: E402
from sparselth.ops import reference  # noqa: E402
from sparselth.ops.patterns import Blocks, KernelShapes  # noqa: E402

# Not drawn, so that processes can share what has to be compiled. What is trained in comes first.
TYPES = pytest.mark.parametrize(
    "dtype", sorted(FLOATS, key=lambda dtype: dtype != torch.bfloat16), ids=str
)
SHAPES = (*agreement.SHAPES, (70001,), (300_000,))
LISTS = {dtype: agreement.lists(SHAPES, WEIGHTS, (dtype,)) for dtype in FLOATS}
TENSORS = {dtype: tensor_lists(SHAPES, (dtype,)) for dtype in FLOATS}
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=3)
SIZES = st.lists(st.sampled_from([0, 1, 5, 300, 20_000]), min_size=1, max_size=4)

topk_mask, admm_project_, weight_overlap, masked_sgd_, masked_adamw_ = (
    agreement.kernel(kernels, op) for op in agreement.OPS
)


@TYPES
@given(st.data())
@settings(max_examples=40)
def test_masks_are_the_oracles(dtype, data):
    agreement.same_masks(kernels, data.draw(LISTS[dtype]), "cuda")


@TYPES
@given(st.data(), st.booleans())
@settings(max_examples=25)
def test_projections_are_the_oracles(dtype, data, allow_nonfinite):
    agreement.same_projection(kernels, data.draw(LISTS[dtype]), allow_nonfinite, "cuda")


@TYPES
@given(st.data(), st.sampled_from([None, 0.1, 0.9]), SHARES)
@settings(max_examples=15)
def test_overlaps_are_the_oracles(dtype, data, density, shares):
    agreement.same_overlap(kernels, data.draw(TENSORS[dtype]), density, shares, "cuda")


@TYPES
@given(SIZES, st.booleans(), agreement.settings_of_steps())
@settings(max_examples=25)
def test_steps_are_the_oracles(dtype, sizes, masked, drawn):
    agreement.same_step(kernels, sizes, dtype, masked, drawn, "cuda")


@TYPES
@given(SIZES, st.booleans(), agreement.settings_of_adamw())
@settings(max_examples=25)
def test_adamw_is_the_oracles(dtype, sizes, masked, drawn):
    agreement.same_adamw(kernels, sizes, dtype, masked, drawn, "cuda")


@TYPES
@pytest.mark.parametrize(
    "pattern",
    ["16x1", "1x16", "32x40", "filter", "channel", Blocks(3, 0, 1), KernelShapes((0b11, 0b101))],
    ids=str,
)
def test_squares_are_added_in_the_order_of_the_contract(pattern, dtype):
    agreement.same_scores(kernels, pattern, dtype, "cuda")


def test_ties_go_to_the_first():
    agreement.same_ties(kernels, "cuda")


@pytest.mark.parametrize("global_", [False, True])
def test_millions_of_values(global_):
    scores = [torch.randn(n, device="cuda").round(decimals=2) for n in (3_000_001, 17, 1_234_567)]
    k = [1_000_003] if global_ else [30_001, 5, 1_000_000]
    agreement.same_masks(kernels, (scores, k, global_, []), "cuda")


def test_hundreds_of_tensors():
    scores = [torch.randn(7 + n, device="cuda") for n in range(400)]
    agreement.same_masks(kernels, (scores, [30_000], True, []), "cuda")


def test_two_runs_give_the_same_bits():
    def run():
        g = torch.Generator("cuda").manual_seed(3)
        w, z, u = ([torch.randn(1_000_003, device="cuda", generator=g)] for _ in range(3))
        return [admm_project_(w, z, u, [100_000], False, [], False), *z, *u]

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


def test_a_side_stream_is_respected():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the scores are written long after the call is queued
        scores = torch.randn(100_000, device="cuda")
        (mask,), _ = topk_mask([scores], [1000], False, [])
    stream.synchronize()
    assert torch.equal(mask, reference.topk_mask([scores], [1000], False, [])[0][0])


@pytest.mark.parametrize("pattern", [[], [0, 16, 1, 1], [1, 2, 4]])
def test_projection_and_step_in_a_cuda_graph(pattern):
    w, z, u, grad, momentum = (torch.randn(256, 192, device="cuda") for _ in range(5))
    mask = torch.rand(w.shape, device="cuda") < 0.5
    states = (w, z, u, momentum)
    start = [t.clone() for t in states]
    k = [] if pattern[:1] == [1] else [500]

    def step():
        residuals = admm_project_([w], [z], [u], k, False, pattern, False)
        masked_sgd_([w], [grad], [momentum], [mask], [z], [u], 0.1, 0.9, 0.0, 0.01, True, 0.02)
        return residuals, topk_mask([w], k, False, pattern)[0][0]

    def restore():
        for tensor, first in zip(states, start, strict=True):
            tensor.copy_(first)

    step()  # compiles
    restore()
    want = [*step(), *(t.clone() for t in states)]
    restore()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    # Tables that others want meanwhile must not take the place of the graph's.
    for n in range(40):
        topk_mask([torch.randn(10 + n, device="cuda")], [3], False, [])
    for _ in range(2):
        restore()
        graph.replay()
        for got, expected in zip([*outputs, *states], want, strict=True):
            assert torch.equal(got, expected)


def test_the_public_functions_reach_the_kernels():
    scores = torch.randn(1000, device="cuda")
    with sl.use_backend("triton"):
        mask = sl.ops.topk_mask(scores, 100)
    assert torch.equal(mask, reference.topk_mask([scores], [100], False, [])[0][0])
