"""The Triton convolutions on a GPU: against the oracle, in graphs, and chosen by a module."""

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
from sparselth.kernels import wide_blocks  # noqa: E402
from support.strategies import conv_cases, stride_1_cases  # noqa: E402
from support.triton import agreement  # noqa: E402

import sparselth as sl  # noqa: E402
from sparselth.ops.gpu.candidates import candidates_for  # noqa: E402
from sparselth.ops.gpu.tma_blocks import TmaBlocks  # noqa: E402

CONVOLVED = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture
def precise():
    """Multiply float32 as float32, so that it can be compared closely."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.mark.parametrize("size", [32, 16, 64])
@pytest.mark.parametrize("dtype", CONVOLVED, ids=str)
@given(conv_cases())
@settings(max_examples=16)
def test_convolutions_are_the_oracles(precise, dtype, size, case):
    agreement.same_convolution(kernels, case, dtype, size, "cuda")


@pytest.mark.skipif(bool(TmaBlocks.why_missing(torch.device("cuda"))), reason="no copies of boxes")
@pytest.mark.parametrize("shape", wide_blocks.SHAPES, ids=str)
@pytest.mark.parametrize("dtype", CONVOLVED[:2], ids=str)
@given(stride_1_cases())
@settings(max_examples=16)
def test_convolutions_by_boxes_are_the_oracles(dtype, shape, case):
    agreement.same_wide_convolution(kernels, case, shape, "cuda", dtype)


@pytest.mark.parametrize("size", [32, 16, 64])
@pytest.mark.parametrize("dtype", CONVOLVED, ids=str)
@given(agreement.ordered_cases(conv_cases()), agreement.DEAD)
@settings(max_examples=12)
def test_convolutions_of_ordered_channels_are_the_oracles(precise, dtype, size, case, dead):
    agreement.same_convolution(kernels, case, dtype, size, "cuda", dead)


def blocks_of_32(dtype, batch=32, channels=128, size=16):
    """Return x, weight and a mask of whole blocks, all channels_last."""
    torch.manual_seed(0)
    x = torch.randn(batch, channels, size, size, device="cuda", dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device="cuda", dtype=dtype) / channels**0.5
    mask = sl.ops.topk_mask(torch.rand(weight.shape, device="cuda"), 14, pattern="32x32")
    return x.contiguous(memory_format=torch.channels_last), weight * mask, mask


def three_passes(x, weight, mask):
    """Return y and both gradients, through autograd."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = sl.ops.masked_conv2d(x, weight, mask, padding=1)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), torch.ones_like(y))]


@pytest.mark.parametrize("dtype", CONVOLVED, ids=str)
def test_convolutions_of_whole_blocks(precise, dtype):
    x, weight, mask = blocks_of_32(dtype)
    with sl.use_backend("triton"):
        got = three_passes(x, weight, mask)
    with sl.use_backend("reference"):
        want = three_passes(x.double(), weight.double(), mask)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() <= 4 * torch.finfo(dtype).eps * b.norm()
    assert got[0].is_contiguous(memory_format=torch.channels_last)


def test_tf32_is_used_as_cudnn_uses_it():
    x, weight, mask = blocks_of_32(torch.float32)
    with sl.use_backend("triton"):
        rounded = three_passes(x, weight, mask)[0]
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            exact = three_passes(x, weight, mask)[0]
    error = ((rounded - exact).norm() / exact.norm()).item()
    assert 1e-5 < error < 1e-3


def test_two_runs_of_a_convolution_give_the_same_bits():
    x, weight, mask = blocks_of_32(torch.bfloat16)
    with sl.use_backend("triton"):
        runs = [three_passes(x, weight, mask) for _ in range(3)]
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            assert torch.equal(a, b)


def test_a_convolution_in_a_cuda_graph():
    x, weight, mask = blocks_of_32(torch.bfloat16)
    with sl.use_backend("triton"):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            want = three_passes(x, weight, mask)  # compiles
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = three_passes(x, weight, mask)
    for _ in range(2):
        graph.replay()
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)


def network(mask):
    """Return conv, norm, ReLU, masked conv, on the GPU in channels_last."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(128, 128, 3, padding=1, bias=False)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 128, 3, padding=1), torch.nn.BatchNorm2d(128), torch.nn.ReLU(), conv
    )
    model = model.to("cuda", memory_format=torch.channels_last)
    return sl.sparsify(model, {"3.weight": mask})


@pytest.mark.parametrize("autocast", [False, True])
def test_a_module_measures_when_its_mask_is_new(autocast):
    x, _, mask = blocks_of_32(torch.float32)
    model, x = network(mask), x[:, :3]
    sl.ops.kernel_choice.known.clear_choices()
    # Tests choose by the fixed table, see conftest.py; this one asks for the other way.
    with (
        sl.use_choice("measured"),
        torch.autocast("cuda", torch.bfloat16, enabled=autocast),
    ):
        y = model(x)
        (choice,) = model[3].service.choices.values()
        assert choice.by == "measured"
        assert choice.timings is not None
        assert all(p.sparse > 0 and p.dense > 0 for p in choice.timings.passes.values())
        y.float().square().mean().backward()
        with sl.use_backend("reference"):
            want = model(x)
    assert y.dtype == want.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert (y - want).norm() < 0.02 * want.norm()
    grad = model[3].weight.grad
    assert grad.dtype == torch.float32
    assert grad[mask].any()
    assert not grad[~mask].any()


def test_the_choice_is_fixed_where_asked_and_for_float64():
    x, _, mask = blocks_of_32(torch.float32)
    model, x = network(mask), x[:, :3]
    with sl.use_choice("fixed"):
        model(x)
    assert not model[3].service.choices
    model = model.double()
    with sl.use_choice("measured"):
        assert model(x.double()).dtype == torch.float64
    assert not model[3].service.choices


def test_a_full_mask_and_an_empty_one():
    x, weight, _ = blocks_of_32(torch.float32)
    for mask in (torch.ones_like(weight, dtype=torch.bool), torch.zeros_like(weight).bool()):
        with sl.use_backend("triton"):
            y, dx, dw = three_passes(x, weight, mask)
        if not mask.any():
            assert not y.any()
            assert not dx.any()
            assert not dw.any()


@pytest.mark.parametrize("dtype", CONVOLVED, ids=str)
def test_empty_filters_and_channels_are_left_out(precise, dtype):
    x, weight, _ = blocks_of_32(dtype)
    mask = torch.zeros(weight.shape, dtype=torch.bool, device="cuda")
    mask[1::4, 3::4] = True
    assert candidates_for(mask, 1).choose().name == "compaction"
    with sl.use_backend("triton"):
        got = three_passes(x, weight, mask)
    with sl.use_backend("reference"):
        want = three_passes(x.double(), weight.double(), mask)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() <= 4 * torch.finfo(dtype).eps * b.norm()
    assert got[0].is_contiguous(memory_format=torch.channels_last)
