"""Where the time of one masked convolution goes: behind the ratios of single layers.

Each pass is timed by itself, over and over, so that its operands stay in the cache as far as they
fit; then one after the other; then after other memory was read, as in a training step between the
layers around it. What the last line has over the sum of the first two is memory, not arithmetic.
Below them, for comparison: the share of a dense convolution's time that the kept weights would have
at its rate of multiply-adds, which is near the machine's highest; and how long a copy takes that
reads and writes as many bytes as the operands and results have.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from sparselth.bench.layers import LAYERS, ConvProblem, conv_problem
from sparselth.ops.lanes.layout import lanes
from sparselth.ops.libraries import has_kernel
from sparselth.ops.plan import conv_plan

_ops = torch.ops.sparselth

ROUNDS = 40
OTHER_MEMORY = torch.zeros(32 << 20)  # 128 MiB, more than the caches of one socket's share
COPIED = torch.zeros(16 << 20)


def _fastest(call: Callable[[], object], before: Callable[[], object] | None = None) -> float:
    """Return milliseconds. before: done before each round, untimed."""
    best = float("inf")
    for _ in range(ROUNDS):
        if before is not None:
            before()
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def _dense(p: ConvProblem) -> float:
    """Return the milliseconds of a dense step, in the better of the two layouts."""

    def step(layout: torch.memory_format) -> Callable[[], object]:
        x, weight, grad = (t.contiguous(memory_format=layout) for t in (p.x, p.weight, p.grad))
        x.requires_grad_(), weight.requires_grad_()

        def run() -> None:
            y = F.conv2d(x, weight, stride=p.stride, padding=p.padding, groups=p.groups)
            torch.autograd.grad(y, (x, weight), grad)

        return run

    return min(_fastest(step(f)) for f in (torch.contiguous_format, torch.channels_last))


def _bytes_per_ms() -> float:
    target = torch.empty_like(COPIED)
    return 2 * COPIED.nbytes / _fastest(lambda: target.copy_(COPIED))


def parts_of(p: ConvProblem) -> dict[str, float]:
    """Return the milliseconds of each part of forward and backward."""
    batch, plan = p.x.shape[0], conv_plan(p.mask, p.groups)
    conv = ((p.stride,) * 2, (p.padding,) * 2, (1, 1), p.groups)
    x, grad = (_ops.to_lanes(t, lanes(t.dtype), 1) for t in (p.x, p.grad))

    def forward() -> None:
        _ops.lanes_conv2d(x, batch, 1, p.weight, p.mask, None, plan, *conv)

    def backward() -> None:
        _ops.lanes_conv2d_backward(grad, 1, x, batch, 1, p.weight, p.mask, plan, *conv)

    def both() -> None:
        forward()
        backward()

    # Read x, write y; read dy and x, write dx.
    moved = 3 * p.x.nbytes + 2 * p.grad.nbytes
    return {
        "forward": _fastest(forward),
        "both gradients": _fastest(backward),
        "one after the other": _fastest(both),
        "the same, caches cold": _fastest(both, before=OTHER_MEMORY.sum),
        "dense, times the share kept": _dense(p) * float(p.mask.float().mean()),
        "a copy of as many bytes": moved / _bytes_per_ms(),
    }


@pytest.mark.skipif(not has_kernel("lanes_conv2d", "cpu"), reason="the kernels are not compiled")
@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.channels >= 64][:4], ids=str)
def bench_conv_profile(benchmark, layer, sparsity):
    parts = parts_of(conv_problem(layer, sparsity))
    benchmark.extra_info.update(
        op="where a masked convolution's time goes",
        device="cpu",
        threads=torch.get_num_threads(),
        problem=str(layer),
        sparsity=sparsity,
        parts={part: round(ms, 3) for part, ms in parts.items()},
    )
    benchmark.pedantic(lambda: None, rounds=1)
