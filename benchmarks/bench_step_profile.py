"""Where the time of a sparse training step goes: the profile behind the ratios of whole steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sparselth.bench.step import CONTESTANTS, MODELS, Step

# What the profiler calls an op -> what a table calls it. The rest is `OTHER`.
PARTS = {
    "sparselth::lanes_conv2d": "convolution: forward",
    "sparselth::lanes_conv2d_grad_input": "convolution: input gradient",
    "sparselth::lanes_conv2d_grad_weight": "convolution: weight gradient",
    "sparselth::lanes_conv2d_backward": "convolution: both gradients",
    "sparselth::lanes_fused_conv2d": "convolution: forward",
    "sparselth::lanes_fused_conv2d_backward": "convolution: both gradients",
    "sparselth::lanes_batch_norm": "batch norm: statistics",
    "sparselth::lanes_scale_add_relu": "batch norm, addition and ReLU: forward",
    "sparselth::lanes_batch_norm_backward": "batch norm and ReLU: backward",
    "sparselth::lanes_relu_backward_add": "ReLU and addition: backward",
    "sparselth::lanes_max_pool2d": "max pooling",
    "sparselth::lanes_max_pool2d_backward": "max pooling",
    "sparselth::to_lanes": "change of layout",
    "sparselth::from_lanes": "change of layout",
    "aten::mkldnn_convolution": "dense convolution",
    "aten::convolution_backward": "dense convolution",
    "sparselth::masked_sgd_": "optimizer",
    "Optimizer.step#SGD.step": "optimizer",
}
OTHER = "framework, loss and all else"
TOTAL = "the step"

WARM_UP, STEPS = 5, 15


def _profiled(step: Step) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU]) as recorder:
        begin = time.perf_counter()
        step()
        total = 1e3 * (time.perf_counter() - begin)
    parts = dict.fromkeys([*PARTS.values(), OTHER], 0.0)
    for event in recorder.key_averages():
        if event.key in PARTS:
            parts[PARTS[event.key]] += event.self_cpu_time_total / 1e3
    parts[OTHER] = total - sum(parts.values())
    return {TOTAL: total, **{name: ms for name, ms in parts.items() if ms}}


def fastest_profile(step: Callable[[], None]) -> dict[str, float]:
    """Return the milliseconds of each part of the fastest of some steps, the step itself first."""
    for _ in range(WARM_UP):
        step()
    return min((_profiled(step) for _ in range(STEPS)), key=lambda parts: parts[TOTAL])


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("contestant", ["sparse", "sparse bf16"])
def bench_step_profile(benchmark, contestant, name, sparsity):
    step = CONTESTANTS[contestant](name, sparsity)
    parts = fastest_profile(step)
    benchmark.extra_info.update(
        op=f"where the time of a {contestant} training step goes",
        device="cpu",
        threads=torch.get_num_threads(),
        problem=name,
        sparsity=sparsity,
        parts={part: round(ms, 3) for part, ms in parts.items()},
    )
    benchmark.pedantic(step, rounds=1)
