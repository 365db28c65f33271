"""Every kernel, as the launchers launch it, compiled for GPUs that are not here."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="the kernels are Triton's")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

import sparselth.kernels
from sparselth.kernels import masked_conv2d_tma
from support.triton import agreement
from support.triton.compiling import (
    CAPABILITIES,
    ask,
    compiled_for,
    instructions,
    launch_boxes,
    launch_convolutions,
    launch_lists,
    resources,
)
from support.triton.inner_loop import inner_loop

PATTERNS = (
    *([], [0, 16, 1, 1], [0, 1, 16, 1], [0, 1, 0, 0], [0, 0, 1, 0]),
    *([1, 2, 4], [1, 4, 32], [2, 9, 0b11, 0b110], [2, 9, *range(16, 32)]),
)


@pytest.fixture
def compiling(monkeypatch, tmp_path):
    """Return a function that sets the target and returns the list of launches to come."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return lambda capability: compiled_for(capability, monkeypatch.setattr)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_fit_the_machine(compiling, capability):
    launches = compiling(capability)
    launch_lists(torch.float32, PATTERNS)
    if capability == 90:
        launch_lists(torch.float64, PATTERNS[::2])
        for dtype in (torch.float16, torch.bfloat16):
            launch_lists(dtype, PATTERNS[:2])
    for kernel in launches.kernels.values():
        name, found = kernel.metadata.name, resources(kernel)
        assert found.spilled == 0, f"{name} spills"
        assert found.registers * found.threads <= 65536 // 2, f"{name}: less than two blocks fit"
        assert found.shared <= 48 * 1024
        # Denormals are ordinary numbers, and squares are rounded before they are added.
        assert ".ftz" not in kernel.asm["ptx"], name
        if name.startswith("score_"):
            assert "fma.rn.f64" not in kernel.asm["ptx"], name
    assert {kernel.metadata.name for kernel in launches.kernels.values()} == {
        *("write_words", "count_digit", "count_ties", "write_mask", "score_boxes", "score_shapes"),
        *("keep_n_of_m", "expand", "project", "add_partials", "count_common", "sgd_step"),
        "adamw_step",
    }


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_convolutions_fit_the_machine(compiling, capability):
    launches = compiling(capability)
    for dtype in (torch.bfloat16, torch.float32):
        for size in (16, 32, 64):
            launch_convolutions(dtype, size)
            # Of all that compile, those that want most registers.
            if (capability, dtype) in ((80, torch.float32), (100, torch.bfloat16)):
                launch_convolutions(dtype, size, ordered=True)
    for kernel in launches.kernels.values():
        name, found = kernel.metadata.name, resources(kernel)
        assert found.spilled == 0, f"{name} spills"
        assert found.registers <= 255
        # What a block may have of shared memory, on the GPUs that have least: 8.6 has 99 KiB.
        assert found.shared <= 99 * 1024, name
        assert ".ftz" not in kernel.asm["ptx"], name
    assert {kernel.metadata.name for kernel in launches.kernels.values()} == {
        *("pack_blocks", "correlate", "sum_blocks", "add_splits"),
    }


# The instructions of tensor cores: warpgroup products on Hopper, tcgen05 on Blackwell.
@pytest.mark.parametrize(
    ("capability", "instruction"), [(80, "HMMA"), (90, "HGMMA"), (100, "UTCHMMA")]
)
@pytest.mark.parametrize("size", [16, 32, 64])
def test_blocks_are_multiplied_by_tensor_cores(compiling, capability, instruction, size):
    launches = compiling(capability)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        launch_convolutions(dtype, size)
    products = [k for k in launches.kernels.values() if k.metadata.name == "correlate"]
    assert len(products) == 6  # forward and input gradient of each type
    for kernel in products:
        found = instructions(kernel)
        assert found[instruction] > 0
        # The gather goes straight to shared memory, several bytes at a time, ahead of the products.
        assert found["LDGSTS"] > 0


# A block's copies in a turn of the loop, those of the turns ahead of it, and no more shared memory
# than a block of the GPU may have.
@pytest.mark.parametrize(("capability", "instruction"), [(90, "HGMMA"), (100, "UTCHMMA")])
@pytest.mark.parametrize("shape", [(32, 32), (64, 128)])
def test_copies_of_boxes_run_ahead_of_the_products(compiling, capability, instruction, shape):
    launches = compiling(capability)
    launch_boxes(torch.bfloat16, shape)
    for kernel in launches.kernels.values():
        name, found, use = kernel.metadata.name, resources(kernel), instructions(kernel)
        assert found.spilled == 0, f"{name} spills"
        assert found.registers <= 255
        if name == "correlate_boxes":
            assert use["UTMALDG"] > 2
            assert use[instruction] > 0
            turn = 2 * shape[0] * (256 + shape[1])
            assert 2 * turn < found.shared <= 227 * 1024
            loop = inner_loop(ask("nvdisasm", "-c", "-ndf", of=kernel))
            if capability == 90:  # Blackwell's instructions do not say how much they multiply
                assert loop.operations == 2 * 256 * shape[0] * shape[1] // 8  # of one of 8 warps
                assert loop.per_thousand < 2
            else:
                assert loop is None
    names = [kernel.metadata.name for kernel in launches.kernels.values()]
    assert sorted(names) == ["correlate_boxes", "correlate_boxes", "pack_wide_blocks"]


def test_tiles_of_boxes_fit_the_images(compiling):
    launches = compiling(90)
    for extent, tile in ((16, (1, 16, 16)), (28, (16, 4, 4)), (14, (8, 2, 16)), (8, (4, 8, 8))):
        assert masked_conv2d_tma.tile_of(32, extent, extent) == tile
        launch_boxes(torch.bfloat16, (16, 16), extent=extent, batch=32)
    before = set(launches.kernels)
    launch_boxes(torch.bfloat16, (16, 16), channels=64, extent=32, batch=3)
    assert set(launches.kernels) == before


def test_float32_is_multiplied_exactly_where_cudnn_would(compiling):
    launches = compiling(90)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        launch_convolutions(torch.float32, 32)
    for kernel in launches.kernels.values():
        found = instructions(kernel)
        assert found["HGMMA"] == found["HMMA"] == 0, kernel.metadata.name


def test_sizes_of_a_problem_compile_nothing_new(compiling):
    launches = compiling(90)
    launch_convolutions(torch.bfloat16, 32)
    before = set(launches.kernels)
    for channels, batch, size in ((64, 3, 9), (256, 17, 30)):
        launch_convolutions(torch.bfloat16, 32, channels, batch, size)
    assert set(launches.kernels) == before


def test_the_number_of_launches_does_not_grow_with_the_list(compiling):
    launches = compiling(90)
    found = []
    for count in (3, 40):
        del launches.names[:]
        launch_lists(torch.float32, ([], [0, 16, 1, 1], [1, 2, 4]), count)
        found.append([name for name in launches.names if name != "write_words"])
    assert found[0] == found[1]


def test_a_step_on_the_same_tensors_is_one_launch(compiling):
    launches = compiling(90)
    tensors = [torch.empty(100) for _ in range(50)]
    step = agreement.kernel(sparselth.kernels, "masked_sgd_")
    for _ in range(2):
        step(tensors, tensors, [], [], [], [], 0.1, 0.0, 0.0, 0.0, False, 0.0)
    assert launches.names == ["write_words", "write_words", "sgd_step", "sgd_step"]


def test_adamw_counts_its_steps_without_another_table_or_kernel(compiling):
    launches = compiling(90)
    tensors = [torch.empty(100) for _ in range(10)]
    step = agreement.kernel(sparselth.kernels, "masked_adamw_")
    for count in (1, 2, 16, 1000):
        step(*[tensors] * 4, [], [], [], [], count, 0.1, 0.9, 0.999, 1e-8, 0.0, 0.0)
    assert launches.names == ["write_words", *["adamw_step"] * 4]
    assert len(launches.kernels) == 2


def test_lengths_and_places_compile_nothing_new(compiling):
    launches = compiling(90)
    topk_mask = agreement.kernel(sparselth.kernels, "topk_mask")
    topk_mask([torch.empty(5000), torch.empty(77)], [100, 3], False, [])
    before = set(launches.kernels)
    for sizes in ((16, 160_000), (1, 1), (3_000_000, 3)):
        tensors = [torch.empty(n + 1)[1:] for n in sizes]
        topk_mask(tensors, [1, 0], False, [])
    assert set(launches.kernels) == before
