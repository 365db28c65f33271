"""Which of the GPU's convolutions serves a mask. The kernels themselves: tests/kernels, emulation.

On the host `unstructured_conv2d` is served by its oracle, so its way through the adapter runs here
too.
"""

import gc
import importlib.util
import re
import warnings
import weakref

import pytest
import torch

from sparselth.ops import reference
from sparselth.ops.gpu import blocks, candidates, column_vector, halo_blocks, unstructured
from sparselth.ops.gpu import conv as gpu_conv
from sparselth.ops.gpu.candidates import candidates_for
from sparselth.ops.gpu.rates import CUDNN, RATES, slower_than_cudnn
from sparselth.ops.switches import forcing

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

CONV = ([2, 1], [1, 1], [1, 1], 1)


@pytest.fixture(autouse=True)
def with_cuda_kernels(monkeypatch):
    """Let the kernels of _C_cuda count as there."""
    for module in (unstructured, column_vector, halo_blocks):
        monkeypatch.setattr(module, "has_cuda_kernels", lambda: True)


@pytest.fixture
def on_cuda():
    with forcing("cuda"):
        yield


def name_of(mask, groups=1, dtype=None):
    """Name the kernel that serves a mask."""
    return candidates_for(mask, groups).choose(dtype).name


def scattered(share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(64, 64, 3, 3, generator=generator) < share


def structured(outs, ins=None):
    """Return a mask of so many filters and channels, spread over all."""
    generator = torch.Generator().manual_seed(0)
    kept = [torch.randperm(512, generator=generator) < 512 * n for n in (outs, ins or outs)]
    return (kept[0][:, None] & kept[1])[:, :, None, None].expand(-1, -1, 3, 3).contiguous()


def in_blocks():
    mask = torch.zeros(64, 64, 3, 3, dtype=torch.bool)
    mask[:32, 32:, 1, 1] = mask[32:, :32, 0, 2] = True
    return mask


def test_a_mask_is_served_by_what_should_take_least_time():
    found = {
        "unstructured": scattered(0.005),
        "blocks": in_blocks(),
        "compaction": structured(0.25),
    }
    for kernel, mask in found.items():
        assert name_of(mask, 1) == kernel
    # What is in one block already needs no order.
    together = torch.zeros(256, 256, 3, 3, dtype=torch.bool)
    together[:64, :64] = True
    assert name_of(together) == "blocks"
    assert "compaction" not in [kernel.name for kernel in candidates_for(together, 1).kernels]
    share = float(scattered(0.005).float().mean())
    expected = candidates_for(scattered(0.005), 1).relative_time
    assert expected == pytest.approx(share * slower_than_cudnn("unstructured"))


@pytest.mark.parametrize(("outs", "ins"), [(0.25, 0.25), (0.1, 0.9), (0.9, 0.1), (0.1, 1.0)])
def test_masks_of_whole_filters_and_channels_are_compacted(outs, ins):
    mask = structured(outs, ins)
    kernel = candidates_for(mask, 1).choose(torch.bfloat16)
    assert kernel.name == "compaction"
    assert kernel.relative_time < 1
    with forcing("triton"):
        assert name_of(mask) == "compaction"
    assert "compaction" not in [kernel.name for kernel in candidates_for(mask, 2).kernels]


def test_where_nothing_should_be_faster_dense_serves():
    for mask in (scattered(0.5), structured(0.9), torch.ones(64, 64, 3, 3, dtype=torch.bool)):
        assert candidates_for(mask, 1).choose() is None
        assert candidates_for(mask, 1).relative_time == 1.0
        with forcing("triton"):
            assert name_of(mask) in ("blocks", "compaction")
    x, weight, mask = torch.randn(1, 64, 5, 5), torch.randn(64, 64, 3, 3), scattered(0.5)
    y = gpu_conv.masked_conv2d(x, weight, mask, None, None, *CONV)
    assert torch.equal(y, reference.masked_conv2d(x, weight, mask, None, None, *CONV))


def test_what_was_found_out_goes_with_the_mask():
    masks = [scattered(0.005, seed) for seed in range(5)]
    found = [weakref.ref(candidates_for(mask, 1)) for mask in masks]
    assert all(ref() is not None for ref in found)
    del masks
    gc.collect()
    assert [ref() for ref in found] == [None] * 5


def test_a_mask_is_looked_at_once_until_it_changes():
    mask = scattered(0.005)
    known = candidates_for(mask, 1)
    assert candidates_for(mask, 1) is known
    assert candidates_for(mask, 2) is not known
    mask[0, 0, 0, 0] = ~mask[0, 0, 0, 0]
    assert candidates_for(mask, 1) is not known
    # A Conv1d's mask is seen as one of images through a view that each call makes.
    row = torch.rand(64, 64, 9) < 0.005
    views = [candidates_for(row.unsqueeze(2), 1) for _ in range(3)]
    assert views[0] is views[1] is views[2]
    with torch.inference_mode():
        inside = scattered(0.005)
        assert candidates_for(inside, 1).kernels  # it has no counter to know it again by


def test_a_forced_backend_serves_any_mask():
    scarce, whole = scattered(0.005), in_blocks()
    with forcing("triton"):
        assert name_of(scarce, 1) != "unstructured"
    with forcing("cuda"):
        assert name_of(whole, 1) == "unstructured"
        assert name_of(whole, 1, torch.bfloat16) == "halo_blocks"


@pytest.mark.usefixtures("on_cuda")
def test_vectors_serve_16_bits_without_groups():
    mask = scattered(0.02)
    assert name_of(mask, 1, torch.bfloat16) == name_of(mask, 1, torch.float16) == "column_vector8"
    assert name_of(mask, 1, torch.float32) == name_of(mask, 1) == "unstructured"
    in_groups = {kernel.name for kernel in candidates_for(mask, 2).kernels}
    assert not {"column_vector16", "column_vector8"} & in_groups


@pytest.mark.usefixtures("on_cuda")
def test_vectors_are_as_long_as_the_masks():
    for length in (16, 8):
        chosen = torch.rand(64 // length, 64, 3, 3) < 0.05
        mask = chosen.repeat_interleave(length, 0)
        assert name_of(mask, 1, torch.float16) == f"column_vector{length}"


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2])
def test_scattered_weights_go_through_all_passes(layout, groups, dtype):
    conv = (*CONV[:3], groups)
    x = torch.randn(2, 64 * groups, 5, 6, dtype=dtype).contiguous(memory_format=layout)
    weight, bias = torch.randn(64, 64, 3, 3, dtype=dtype), torch.randn(64, dtype=dtype)
    mask, hw = scattered(0.02), [5, 6]
    kernel = "column_vector8" if dtype == torch.bfloat16 and groups == 1 else "unstructured"
    assert name_of(mask, groups, dtype) == kernel
    y = gpu_conv.masked_conv2d(x, weight, mask, bias, None, *conv)
    positive = gpu_conv.masked_conv2d_relu(x, weight, mask, bias, None, *conv)
    assert torch.equal(positive, y.relu())
    dx = gpu_conv.masked_conv2d_grad_input(y, weight, mask, None, hw, *conv)
    dw = gpu_conv.masked_conv2d_grad_weight(y, x, mask, None, *conv)
    assert y.is_contiguous(memory_format=layout)
    assert dx.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, reference.masked_conv2d(x, weight, mask, bias, None, *conv))
    torch.testing.assert_close(
        dx, reference.masked_conv2d_grad_input(y, weight, mask, None, hw, *conv)
    )
    torch.testing.assert_close(dw, reference.masked_conv2d_grad_weight(y, x, mask, None, *conv))


def test_a_kernel_that_reaches_too_far_goes_elsewhere(monkeypatch):
    mask, weight = in_blocks() & scattered(0.02), torch.randn(64, 64, 3, 3)
    x, conv = torch.randn(1, 64, 40, 40), ([1, 1], [12, 12], [12, 12], 1)
    served = []
    monkeypatch.setattr(blocks.Blocks, "pack", lambda *_: None)
    monkeypatch.setattr(
        blocks, "launcher", lambda op: lambda x, *rest, **options: served.append(op) or x
    )
    blocks_only = candidates_for(mask, 1)
    blocks_only.kernels = [k for k in blocks_only.kernels if k.name in ("unstructured", "blocks")]
    gpu_conv.masked_conv2d(x, weight, mask, None, None, *conv)
    assert served == ["masked_conv2d"]
    with (
        forcing("cuda"),
        pytest.raises(ValueError, match=r"dilation .12, 12. reaches too far"),
    ):
        gpu_conv.masked_conv2d(x, weight, mask, None, None, *conv)


def test_backwards_that_look_at_their_masks_anew_are_warned_of_once(monkeypatch):
    monkeypatch.setattr(candidates, "_rebuilt", candidates.Rebuilt(most=3))
    mask = scattered(0.005)
    x, weight = torch.randn(1, 64, 4, 4), torch.randn(mask.shape)
    conv = ([1, 1], [1, 1], [1, 1], 1)
    y = gpu_conv.masked_conv2d(x, weight, mask, None, None, *conv)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):  # as every training does
            gpu_conv.masked_conv2d_grad_input(y, weight, mask, None, [4, 4], *conv)
            gpu_conv.masked_conv2d_grad_weight(y, x, mask, None, *conv)
        for _ in range(2):
            gpu_conv.masked_conv2d_grad_input(y, weight, mask.clone(), None, [4, 4], *conv)
    with pytest.warns(UserWarning, match="3 backwards .* looked at their masks anew"):
        gpu_conv.masked_conv2d_grad_weight(y, x, mask.clone(), None, *conv)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpu_conv.masked_conv2d_grad_weight(y, x, mask.clone(), None, *conv)


def test_every_kernel_that_is_ranked_by_its_rate_has_one():
    blocks_of = importlib.import_module("sparselth.kernels.blocks").SIZES
    shapes = importlib.import_module("sparselth.kernels.wide_blocks").SHAPES
    by_size = {f"{name}{size}" for name in ("blocks", "compaction") for size in blocks_of}
    by_size |= {f"tma_blocks{depth}x{width}" for depth, width in shapes}
    ranked = {kernel.name for kernel in candidates.KERNELS}
    assert set(RATES) == {CUDNN, *by_size, *ranked} - {"blocks", "tma_blocks", "compaction"}
    for rate in RATES.values():
        assert rate.teraflops > 0
        assert rate.source == "estimated" or re.search(r"\d{4}-\d{2}-\d{2}", rate.source)


@pytest.mark.parametrize("name", ["blocks", "compaction"])
def test_a_weight_is_packed_once_for_both_passes(monkeypatch, name):
    masks = {"blocks": in_blocks(), "compaction": structured(0.25)}
    packed, given = [], []

    def pack(kernel, weight, mask):
        packed.append(weight.clone())
        return packed[-1]

    def launcher(op):
        def run(x, *rest, packed=None, **options):
            given.append(packed)
            return x

        return run

    monkeypatch.setattr(blocks.Blocks, "pack", pack)
    monkeypatch.setattr(blocks, "launcher", launcher)
    mask, weight = masks[name].clone(), torch.randn(masks[name].shape)
    x, conv = torch.randn(1, mask.shape[1], 4, 4), ([1, 1], [1, 1], [1, 1], 1)
    kernel = next(k for k in candidates_for(mask, 1).kernels if k.name == name)

    def step():
        kernel.forward(x, weight, mask, None, conv)
        kernel.grad_input(x, weight, mask, [4, 4], conv)
        return given[-2:]

    for turn in range(2):
        assert all(one is packed[turn] for one in step())
        weight.mul_(2)
    # Written to after the forward: what it left is of another weight.
    kernel.grad_input(x, weight, mask, [4, 4], conv)
    assert len(packed) == 3
    assert torch.equal(given[-1], weight)
    step()
    mask[0, 0, 0, 0] = True  # and of another mask
    other = next(k for k in candidates_for(mask, 1).kernels if k.name == name)
    other.grad_input(x, weight, mask, [4, 4], conv)
    assert len(packed) == 5
    with torch.inference_mode():
        inside = torch.randn(mask.shape)
        kernel.forward(x, inside, mask, None, conv)
        kernel.grad_input(x, inside, mask, [4, 4], conv)
    assert len(packed) == 7
