"""What was measured of layers, kept for all layers like them.

Times are known by sizes, dtype, layout, threads, and the mask's density in steps of 5 %.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...memory import return_freed_memory
from ..contract import ConvSettings, output_size
from ..gpu.candidates import candidates_for
from ..gpu.linear import as_kernels
from ..patterns import classify
from . import measure_cpu, measure_gpu
from .measure_cpu import Timings

_CACHED = 1024
_timings: OrderedDict[tuple, Timings] = OrderedDict()


def clear_choices() -> None:
    """Forget every measured time.

    Modules keep the choices they made; what is chosen from now on is measured anew. Takes and
    returns nothing.
    """
    _timings.clear()


def rounded(count: int) -> int:
    """Round a batch up to a power of two: batches that share a choice."""
    return 1 << (count - 1).bit_length()


def layout_of(x: Tensor) -> torch.memory_format:
    """Return the layout that dense gets `x` in."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def conv_timings(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    plan: Tensor | None,
    conv: ConvSettings,
    *,
    anew: bool = False,
) -> Timings | None:
    """Return the timings of a convolution of `x`, measured unless known; None if it cannot be.

    x: (N, C_in, H, W), of any layout.  weight, mask: (C_out, C_in / groups, kH, kW).  plan: the
    mask's, or None.  conv: stride, padding and dilation in pairs, and groups. Times are in
    milliseconds, known by sizes, dtype, layout, threads and the mask's density in steps of 5 %.
    anew: measure also what is known.
    """
    if not (_alike(x, weight) and _fits(x.shape, weight, conv)):
        return None  # the call itself will say what is wrong
    if _capturing(x):
        return None
    layout = layout_of(x)
    size = (rounded(x.shape[0]), *x.shape[1:])
    settings = (*map(tuple, conv[:3]), conv[3], layout)
    on = (measure_gpu if x.is_cuda else measure_cpu).measure_conv
    where = _where(x, mask, conv[3])
    key = ("masked_conv2d", size, *settings, *_key(weight, mask), *where)
    return _cached(key, lambda: on(x.shape, weight, mask, plan, conv, layout=layout), anew)


def linear_timings(
    x: Tensor, weight: Tensor, mask: Tensor, plan: Tensor | None, *, anew: bool = False
) -> Timings | None:
    """Return the timings of a linear layer, measured unless known; None if it cannot be.

    x: (..., C_in).  weight, mask: (C_out, C_in).  plan: the mask's, or None.
    anew: measure also what is known.
    """
    if not _alike(x, weight) or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        return None
    if _capturing(x):
        return None
    rows = x.numel() // weight.shape[1]
    on = (measure_gpu if x.is_cuda else measure_cpu).measure_linear
    where = _where(x, as_kernels(mask), 1)
    key = ("masked_linear", rounded(rows), *_key(weight, mask), *where)
    return _cached(key, lambda: on(rows, weight, mask, plan), anew)


def _capturing(x: Tensor) -> bool:
    # Nothing runs while a graph is captured.
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _where(x: Tensor, mask: Tensor, groups: int) -> tuple:
    return (x.device, round(candidates_for(mask, groups).relative_time, 2)) if x.is_cuda else ()


def _cached(key: tuple, measured: Callable[[], Timings], anew: bool) -> Timings:
    timings = None if anew else _timings.get(key)
    if timings is None:
        timings = _timings[key] = measured()
        # What the contestants used lies in the heap, in pieces, below what the training allocates.
        return_freed_memory()
        if len(_timings) > _CACHED:
            _timings.popitem(last=False)
    return timings


def _key(weight: Tensor, mask: Tensor) -> tuple:
    kept = int(mask.count_nonzero())
    # Steps of 5 %: finer ones make no difference in time.
    bucket = round(math.log(kept) / math.log(1.05)) if kept else -1
    threads = torch.get_num_threads()
    return (tuple(weight.shape), weight.dtype, threads, bucket, classify(mask))


def _alike(x: Tensor, weight: Tensor) -> bool:
    plain = type(weight) in (Tensor, torch.nn.Parameter)
    return plain and x.dtype == weight.dtype and x.device == weight.device


def _fits(shape: Sequence[int], weight: Tensor, conv: ConvSettings) -> bool:
    stride, padding, dilation, groups = conv
    return shape[1] == weight.shape[1] * groups and all(
        output_size(shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i]) > 0
        for i in range(2)
    )
