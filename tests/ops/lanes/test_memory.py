"""Activations in lanes get the memory of those that were freed, and nobody notices."""

import platform
import subprocess
import sys

import pytest
import torch

import sparselth as sl
from sparselth.ops import libraries
from sparselth.ops.contract import OPS
from sparselth.ops.lanes.layout import lanes

LOADED = any(status.loaded for status in libraries.status() if status.name == "_C")
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

kept = pytest.mark.skipif(
    platform.system() != "Linux" or not LOADED or TORCH < (2, 11),
    reason="memory is kept by the compiled kernels, on Linux, with torch 2.11",
)

SHAPE = (64, 16, 32, 32)  # 4 MiB in float32


def into_lanes(x):
    return OPS.to_lanes(x, lanes(x.dtype), 0)


@kept
def test_what_is_freed_is_used_again_and_what_is_held_is_not():
    sl.release_lane_memory()
    held = into_lanes(torch.ones(SHAPE))
    freed = into_lanes(torch.full(SHAPE, 2.0))
    address = freed.data_ptr()
    del freed
    again = into_lanes(torch.full(SHAPE, 3.0))
    assert again.data_ptr() == address
    assert (again == 3).all()
    assert (held == 1).all()


@kept
def test_release_says_how_much_it_gave_back():
    sl.release_lane_memory()
    size = torch.empty(SHAPE).nbytes
    held = into_lanes(torch.ones(SHAPE))
    freed = into_lanes(torch.ones(SHAPE))
    del freed
    assert abs(sl.release_lane_memory() - size) < 64 << 10
    assert sl.release_lane_memory() == 0
    assert (held == 1).all()


@kept
def test_views_and_saved_tensors_hold_the_memory():
    y = into_lanes(torch.ones(SHAPE))
    view, address = y[0, 3], y.data_ptr()
    del y
    other = into_lanes(torch.full(SHAPE, 2.0))
    assert other.data_ptr() != address
    assert (view == 1).all()


def test_the_tensors_are_ordinary_ones():
    y = into_lanes(torch.ones(SHAPE))
    assert y.is_contiguous()
    assert not y.requires_grad
    assert y.device == torch.device("cpu")
    assert not y.is_inference()
    assert torch.equal(y.clone(), y)
    assert torch.equal(y.transpose(0, 1).contiguous().transpose(0, 1), y)
    y += 1
    assert (y == 2).all()
    with torch.inference_mode():
        assert into_lanes(torch.ones(SHAPE)).is_inference()


def test_without_kernels_nothing_is_kept():
    script = "import sparselth as sl; print(sl.release_lane_memory())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={"SPARSELTH_DISABLE": "_C"},
    )
    assert int(done.stdout) == 0
