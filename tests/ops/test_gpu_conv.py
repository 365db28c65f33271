"""Which of the GPU's convolutions serves a mask. The kernels themselves: tests/kernels, emulation.

On the host `unstructured_conv2d` is served by its oracle, so its way through the adapter runs here
too.
"""

import gc
import importlib.util
import weakref

import pytest
import torch

from sparselth.ops import gpu_conv, reference
from sparselth.ops.switches import forcing

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

CONV = ([2, 1], [1, 1], [1, 1], 1)


@pytest.fixture(autouse=True)
def with_entries(monkeypatch):
    """Let the kernels of _C_cuda count as there."""
    monkeypatch.setattr(gpu_conv, "has_cuda_kernels", lambda: True)


@pytest.fixture
def on_cuda():
    with forcing("cuda"):
        yield


def scattered(share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(64, 64, 3, 3, generator=generator) < share


def in_lanes():
    mask = torch.zeros(64, 64, 3, 3, dtype=torch.bool)
    mask[:32, 32:, 1, 1] = mask[32:, :32, 0, 2] = True
    return mask


def test_a_mask_is_served_by_what_should_take_least_time():
    pruned = torch.zeros(64, 64, 3, 3, dtype=torch.bool)
    pruned[:8, :8] = True
    found = {
        "unstructured": scattered(0.005),
        "blocks": in_lanes(),
        "compaction": pruned,
    }
    for kernel, mask in found.items():
        assert gpu_conv.found_of(None, mask, 1).serving() == kernel
    plan = gpu_conv.block_plan(scattered(0.005), 1)
    share = float(scattered(0.005).float().mean())
    assert gpu_conv.work_of(plan) == pytest.approx(share * 450 / 12.5)


def test_a_plan_that_nobody_holds_is_gone():
    plans = [gpu_conv.block_plan(scattered(0.005, seed), 1) for seed in range(5)]
    found = [weakref.ref(gpu_conv.found_of(plan, scattered(0.005), 1)) for plan in plans]
    assert all(ref() is not None for ref in found)
    del plans
    gc.collect()
    assert [ref() for ref in found] == [None] * 5


def test_a_forced_backend_serves_any_mask():
    scarce, blocks = scattered(0.005), in_lanes()
    with forcing("triton"):
        assert gpu_conv.found_of(None, scarce, 1).serving() != "unstructured"
    with forcing("cuda"):
        assert gpu_conv.found_of(None, blocks, 1).serving() == "unstructured"
        assert gpu_conv.found_of(None, blocks, 1).serving(torch.bfloat16) == "column_vector16"


def test_vectors_serve_16_bits_without_groups():
    mask = scattered(0.02)
    found = gpu_conv.found_of(None, mask, 1)
    assert found.serving(torch.bfloat16) == found.serving(torch.float16) == "column_vector8"
    assert found.serving(torch.float32) == found.serving() == "unstructured"
    assert not {"column_vector16", "column_vector8"} & gpu_conv.found_of(None, mask, 2).work.keys()


@pytest.mark.usefixtures("on_cuda")
def test_vectors_are_as_long_as_the_masks():
    for length in (16, 8):
        chosen = torch.rand(64 // length, 64, 3, 3) < 0.05
        mask = chosen.repeat_interleave(length, 0)
        assert gpu_conv.found_of(None, mask, 1).serving(torch.float16) == f"column_vector{length}"


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2])
def test_scattered_weights_go_through_all_passes(layout, groups, dtype):
    conv = (*CONV[:3], groups)
    x = torch.randn(2, 64 * groups, 5, 6, dtype=dtype).contiguous(memory_format=layout)
    weight, bias = torch.randn(64, 64, 3, 3, dtype=dtype), torch.randn(64, dtype=dtype)
    mask, hw = scattered(0.005), [5, 6]
    kernel = "column_vector8" if dtype == torch.bfloat16 and groups == 1 else "unstructured"
    assert gpu_conv.found_of(None, mask, groups).serving(dtype) == kernel
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
    mask, weight = scattered(0.005), torch.randn(64, 64, 3, 3)
    x, conv = torch.randn(1, 64, 40, 40), ([1, 1], [12, 12], [12, 12], 1)
    served = []
    monkeypatch.setattr(
        gpu_conv, "_kernel", lambda op: lambda x, *rest, **options: served.append(op) or x
    )
    gpu_conv.masked_conv2d(x, weight, mask, None, None, *conv)
    assert served == ["masked_conv2d"]
    with (
        forcing("cuda"),
        pytest.raises(ValueError, match=r"dilation .12, 12. reaches too far"),
    ):
        gpu_conv.masked_conv2d(x, weight, mask, None, None, *conv)
