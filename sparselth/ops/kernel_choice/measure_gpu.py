"""Time the sparse kernels of a layer against dense ones, pass by pass, on a GPU.

As `measure_cpu.py` does on the CPU. Activations keep the layout they arrive in, so nothing is
converted between the two but what the kernels convert themselves, which counts. Times are of CUDA
events with the L2 cache flushed in between, which hides how long the host takes to launch what
runs: that is timed beside, for steps that are no CUDA graphs.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..contract import OPS, ConvSettings
from ..reference.conv import convolution_backward
from .measure_cpu import PASSES, Conversions, PassTiming, Timings, applied_by_bits

# Milliseconds that a contestant is warmed up and measured for.
_WARM_UP, _MEASURED = 5, 20

# Launches that the host is timed for: few enough that the queue of the device is never full.
_LAUNCHES = 20

_Run = Callable[[], object]


def _unless_memory_is_short(measure: Callable[..., Timings]) -> Callable[..., Timings]:
    """Let sparse count as slower where memory does not suffice: dense needs no plans."""

    @wraps(measure)
    def measured(*args: Any, **options: Any) -> Timings:
        try:
            with torch.no_grad():
                return measure(*args, **options)
        except torch.cuda.OutOfMemoryError:
            warnings.warn(
                "no GPU memory left to measure a masked layer in: it stays dense. Run one step "
                "with smaller batches first, or use sparselth.use_choice('fixed')",
                stacklevel=2,
            )
            unknown = PassTiming(sparse=math.inf, dense=math.nan)
            return Timings(dict.fromkeys(PASSES, unknown), Conversions())

    return measured


@_unless_memory_is_short
def measure_conv(
    x_shape: Sequence[int],
    weight: Tensor,
    mask: Tensor,
    plan: Tensor | None,
    conv: ConvSettings,
    layout: torch.memory_format,
) -> Timings:
    """Time a convolution's passes on x in `layout`; arguments as in `measure_cpu.measure_conv`."""
    weight = weight.detach()
    x, grad = _operands(x_shape, weight, conv, layout)
    hw, masked, cut = list(x_shape[2:]), *_dense(weight, mask)
    return _timed(
        weight.device,
        {
            "forward": (
                lambda: OPS.masked_conv2d(x, weight, mask, None, plan, *conv),
                lambda: F.conv2d(x, masked, None, *conv),
            ),
            "grad_input": (
                lambda: OPS.masked_conv2d_grad_input(grad, weight, mask, plan, hw, *conv),
                lambda: convolution_backward(grad, x, masked, conv, [True, False, False]),
            ),
            "grad_weight": (
                lambda: OPS.masked_conv2d_grad_weight(grad, x, mask, plan, *conv),
                lambda: cut(convolution_backward(grad, x, masked, conv, [False, True, False])[1]),
            ),
        },
    )


@_unless_memory_is_short
def measure_linear(rows: int, weight: Tensor, mask: Tensor, plan: Tensor | None) -> Timings:
    """Time a linear layer's passes on `rows` rows; as `measure_cpu.measure_linear`."""
    weight = weight.detach()
    x, grad = (_draw((rows, size), weight) for size in reversed(weight.shape))
    masked, cut = _dense(weight, mask)
    return _timed(
        weight.device,
        {
            "forward": (
                lambda: OPS.masked_linear(x, weight, mask, None, plan),
                lambda: F.linear(x, masked),
            ),
            "grad_input": (
                lambda: OPS.masked_linear_grad_input(grad, weight, mask, plan),
                lambda: grad @ masked,
            ),
            "grad_weight": (
                lambda: OPS.masked_linear_grad_weight(grad, x, mask, plan, False),
                lambda: cut(grad.t() @ x),
            ),
        },
    )


def _dense(weight: Tensor, mask: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return what dense passes compute with, and what masks their gradient.

    Dense layers compute with the weight as it is, which is zero off the mask, see `nn/state.py`.
    """
    return reference.apply_mask(weight, mask), applied_by_bits(weight, mask)


def _timed(device: torch.device, contestants: dict[str, tuple[_Run, _Run]]) -> Timings:
    def on_device(run: _Run) -> float:
        from triton.testing import do_bench  # only here: triton is slow to import

        return do_bench(run, warmup=_WARM_UP, rep=_MEASURED, return_mode="median")

    def on_host(run: _Run) -> float:
        times = []
        for _ in range(_LAUNCHES):
            begin = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - begin))
        torch.cuda.synchronize()
        return median(times)

    with torch.cuda.device(device):
        passes, host = (
            {name: PassTiming(*map(clock, runs)) for name, runs in contestants.items()}
            for clock in (on_device, on_host)
        )
    return Timings(passes, Conversions(), host)


def _operands(
    x_shape: Sequence[int], weight: Tensor, conv: ConvSettings, layout: torch.memory_format
) -> tuple[Tensor, Tensor]:
    """Return an input and a gradient of the output."""
    x = _draw(x_shape, weight).contiguous(memory_format=layout)
    y = F.conv2d(x, weight, None, *conv)
    return x, _draw(y.shape, weight).contiguous(memory_format=layout)


def _draw(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return random values: zeros would draw less power and run faster."""
    # A generator of its own: the caller's random numbers must not depend on being measured.
    generator = torch.Generator(like.device).manual_seed(0)
    values = torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
    return values.uniform_(-1, 1, generator=generator)
