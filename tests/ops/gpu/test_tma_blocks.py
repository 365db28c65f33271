"""Blocks by copied boxes: which masks, images and GPUs they serve. The kernels: tests/kernels."""

import importlib.util

import pytest
import torch

import sparselth as sl
from sparselth.ops.gpu import candidates, tma_blocks
from sparselth.ops.gpu.candidates import candidates_for
from sparselth.ops.gpu.rates import slower_than_cudnn
from sparselth.ops.gpu.tma_blocks import TmaBlocks
from sparselth.ops.switches import forcing

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def asked_anew():
    """Forget what is known of devices, before and after."""
    tma_blocks.why_no_tma.cache_clear()
    yield
    tma_blocks.why_no_tma.cache_clear()


def in_blocks(outs=128, ins=128, size=32):
    torch.manual_seed(0)
    small = torch.rand(outs // size, ins // size, 3, 3) < 0.1
    return small.repeat_interleave(size, 0).repeat_interleave(size, 1)


@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ((8, 6), "needs compute capability 9.0 or 10.0, this GPU has 8.6"),
        ((9, 0), ""),
        ((10, 3), ""),
        ((12, 0), "needs compute capability 9.0 or 10.0, this GPU has 12.0"),
    ],
)
def test_it_needs_hardware_that_copies(monkeypatch, capability, reason):
    monkeypatch.setattr(tma_blocks, "why_missing", lambda: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert TmaBlocks.why_missing(CUDA) == reason


def test_it_needs_triton(monkeypatch):
    monkeypatch.setattr(tma_blocks, "why_missing", lambda: "triton is not installed")
    assert TmaBlocks.why_missing(CUDA) == "triton is not installed"


def test_a_mask_of_odd_channels_or_groups_is_left_to_others(monkeypatch):
    assert TmaBlocks.for_mask(in_blocks(), 1) is not None
    assert TmaBlocks.for_mask(in_blocks(), 2) is None
    for outs, ins in ((124, 128), (128, 3)):
        assert TmaBlocks.for_mask(torch.ones(outs, ins, 3, 3, dtype=torch.bool), 1) is None
    monkeypatch.setattr(tma_blocks, "why_no_tma", lambda device: "none here")
    assert TmaBlocks.for_mask(in_blocks(), 1) is None


def test_it_serves_stride_1_in_16_bits():
    candidates = candidates_for(in_blocks(), 1)
    with forcing("triton"):
        for dtype in (torch.float16, torch.bfloat16):
            stride_1, stride_2 = (
                candidates.choose(dtype, (16, 16), ([n, n], [1, 1], [1, 1], 1)) for n in (1, 2)
            )
            assert stride_1.name == "tma_blocks"
            assert stride_2.name == "blocks"
        assert candidates.choose(torch.float32).name == "blocks"


def test_it_expects_its_own_passes_and_the_weight_gradient_of_blocks():
    mask = in_blocks()
    kernel = TmaBlocks.for_mask(mask, 1)
    assert (kernel.index.depth, kernel.index.width) == (32, 32)
    share = float(mask.float().mean())
    products = share * slower_than_cudnn("tma_blocks32x32")
    blocks = share * slower_than_cudnn("blocks32")
    assert kernel.relative_time == pytest.approx((2 * products + blocks) / 3)


def test_on_a_gpu_every_kernel_of_convolutions_says_what_it_serves(monkeypatch):
    assert "convolutions on this GPU" not in str(sl.backends()) or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    old = "needs compute capability 9.0 or 10.0, this GPU has 8.6"
    monkeypatch.setattr(candidates.TmaBlocks, "why_missing", lambda device: old)
    monkeypatch.setattr(candidates.Blocks, "why_missing", lambda device: "")
    lines = str(sl.backends()).splitlines()
    found = dict(line.split(maxsplit=1) for line in lines[-len(candidates.KERNELS) :])
    assert list(found) == [kernel.name for kernel in candidates.KERNELS]
    assert found["tma_blocks"] == old
    assert found["blocks"] == "any mask and geometry; float16, bfloat16, float32"
