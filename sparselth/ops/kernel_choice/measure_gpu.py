"""Time the sparse kernels of a convolution against cuDNN, pass by pass, on a GPU.

As `measure_cpu.py` does on the CPU. Activations keep the layout they arrive in, so nothing is
converted between the two but what the kernels convert themselves, which counts. Times are of CUDA
events with the L2 cache flushed in between.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import reference
from ..contract import OPS, ConvSettings
from .measure_cpu import PASSES, Conversions, PassTiming, Timings

# Milliseconds that a contestant is warmed up and measured for.
_WARM_UP, _MEASURED = 5, 20


@torch.no_grad()
def measure_conv(
    x_shape: Sequence[int],
    weight: Tensor,
    mask: Tensor,
    plan: Tensor | None,
    conv: ConvSettings,
    layout: torch.memory_format,
) -> Timings:
    """Time a convolution's passes on x in `layout`; arguments as in `measure_cpu.measure_conv`.

    Where memory does not suffice for that, sparse counts as slower: dense needs no plans.
    """
    try:
        return _measure(x_shape, weight, mask, plan, conv, layout)
    except torch.cuda.OutOfMemoryError:
        warnings.warn(
            "no GPU memory left to measure a masked layer in: it stays dense. Run one step with "
            "smaller batches first, or use sparselth.use_choice('fixed')",
            stacklevel=2,
        )
        unknown = PassTiming(sparse=math.inf, dense=math.nan)
        return Timings(dict.fromkeys(PASSES, unknown), Conversions())


def _measure(x_shape, weight, mask, plan, conv: ConvSettings, layout) -> Timings:
    weight = weight.detach()
    x, grad = _operands(x_shape, weight, conv, layout)
    hw, masked = list(x_shape[2:]), reference.apply_mask(weight, mask)
    contestants: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "forward": (
            lambda: OPS.masked_conv2d(x, weight, mask, None, plan, *conv),
            lambda: reference.masked_conv2d(x, weight, mask, None, None, *conv),
        ),
        "grad_input": (
            lambda: OPS.masked_conv2d_grad_input(grad, weight, mask, plan, hw, *conv),
            # Autograd keeps the masked weight of the forward.
            lambda: reference.convolution_backward(grad, x, masked, conv, [True, False, False]),
        ),
        "grad_weight": (
            lambda: OPS.masked_conv2d_grad_weight(grad, x, mask, plan, *conv),
            lambda: reference.masked_conv2d_grad_weight(grad, x, mask, None, *conv),
        ),
    }

    def timed(run: Callable[[], object]) -> float:
        from triton.testing import do_bench  # only here: triton is slow to import

        return do_bench(run, warmup=_WARM_UP, rep=_MEASURED, return_mode="median")

    with torch.cuda.device(weight.device):
        passes = {
            name: PassTiming(timed(sparse), timed(dense))
            for name, (sparse, dense) in contestants.items()
        }
    return Timings(passes, Conversions())


def _operands(
    x_shape: Sequence[int], weight: Tensor, conv: ConvSettings, layout: torch.memory_format
) -> tuple[Tensor, Tensor]:
    """Return an input and a gradient of the output. Zeros would draw less power and run faster."""
    # A generator of its own: the caller's random numbers must not depend on being measured.
    generator = torch.Generator(weight.device).manual_seed(0)

    def draw(shape: Sequence[int]) -> Tensor:
        values = torch.empty(tuple(shape), dtype=weight.dtype, device=weight.device)
        return values.uniform_(-1, 1, generator=generator).contiguous(memory_format=layout)

    x = draw(x_shape)
    stride, padding, dilation, groups = conv
    y = torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    return x, draw(y.shape)
