"""Sparse or dense, per layer and per pass: decided by measuring, or by a fixed table.

Measured: the first input of a shape after a mask was set is timed once, sparse against dense with
the mask applied (`measure_cpu.py`, `measure_gpu.py`), and everything after looks the result up.
Fixed: the density decides (`backends.prefer_dense`), the same on every machine and in every run, as
two choices differ in rounding.

How a layer is charged. Sparse kernels want activations in lanes. Where x arrives plain, sparse is
charged for both ways, into lanes and out again, though the layers after it may stay in lanes: so
a lone sparse layer between dense ones never loses. Where x arrives in lanes, dense is charged for
leaving them. Sparse has to win by `MARGIN`, and by `ENTRY_MARGIN` where x arrives plain: what a
change of layout costs the additions and norms around the layer is not measured.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import check_name
from ...memory import return_freed_memory
from .. import backends, libraries
from ..contract import ConvSettings, output_size
from ..gpu.candidates import candidates_for
from ..gpu.kernel import DTYPES as GPU_DTYPES
from ..lanes.convert import DTYPES, can_use_lanes, is_eager, is_plain_eager_cpu
from ..lanes.tensor import in_lanes
from ..patterns import classify
from ..switches import choosing, mode
from . import measure_cpu, measure_gpu
from .measure_cpu import Timings

MODES = ("measured", "fixed")

# A choice is in doubt where the rounds disagreed by this much, and its lead is not twice as large.
NOISE = 0.1

# Timing is noisy; and what is equally fast should stay what users know.
MARGIN, ENTRY_MARGIN = 0.03, 0.2

_CACHED = 1024
_timings: OrderedDict[tuple, Timings] = OrderedDict()


def checked_mode(name: str) -> str:
    """Return `name` if it is a mode of choosing; raises SparselthError otherwise."""
    check_name("choice", name, MODES)
    return name


def use_choice(name: str) -> AbstractContextManager[None]:
    """Choose between sparse and dense by measuring, or by a fixed table, in the `with` block.

    Decorates a function as well.
    name: "measured", which is fastest, or "fixed", which gives the same numbers, bit for bit, in
    every run. Outside of any block, and in threads started inside one, the environment variable
    SPARSELTH_CHOICE holds, or "measured". The fixed table also serves deterministic algorithms
    (`torch.use_deterministic_algorithms`), compiled and traced programs, and linear layers on
    a GPU.

    Raises SparselthError for an unknown name, at the call, before the block is entered.
    """
    return choosing(checked_mode(name))


# --- decisions --------------------------------------------------------------------------------

_NO_PASSES: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """How a layer is served: sparse or dense, and which passes of a sparse layer are dense.

    by: "measured" or "fixed" (the table, or a forced backend).  dense_ms, sparse_ms: the layer's
    total either way, conversions included, sparse with its dense passes; NaN when nothing was
    measured.  doubtful: other programs ran while it was measured, so that it could be wrong.
    """

    sparse: bool
    by: str
    dense_passes: frozenset[str] = _NO_PASSES
    dense_ms: float = math.nan
    sparse_ms: float = math.nan
    timings: Timings | None = None
    doubtful: bool = False

    def serves(self, name: str) -> str:
        """Return what serves the pass `name`: "sparse" or "dense"."""
        return "sparse" if self.sparse and name not in self.dense_passes else "dense"


_FIXED = {sparse: Choice(sparse, "fixed") for sparse in (True, False)}
ALWAYS_DENSE = _FIXED[False]


def fixed_choice(op: str, x: Tensor, density: float) -> Choice:
    """Choose without measuring: by the forced backend, or by the table of densities."""
    return _FIXED[not backends.prefer_dense(op, x.device, density, x.dtype)]


def decide(timings: Timings, wanted: Sequence[str], in_lanes: bool) -> Choice:
    """Choose from what was measured.

    wanted: the passes that will run, of `measure.PASSES`.  in_lanes: whether x arrives so.
    """
    passes = {name: timings.passes[name] for name in wanted}
    dense_passes = frozenset(n for n, p in passes.items() if p.best < p.sparse)
    dense = sum(p.dense for p in passes.values())
    sparse = sum(p.best for p in passes.values())
    c = timings.conversions
    # What crosses the border of the lanes, and its gradient, if any, the other way.
    differentiated = "grad_input" in passes
    if in_lanes:
        dense += c.from_x + (c.to_x if differentiated else 0.0)
    else:
        sparse += c.to_x + (c.from_x if differentiated else 0.0)
        sparse += c.from_y + (c.to_y if len(passes) > 1 else 0.0)
    wins = sparse <= (1 - (MARGIN if in_lanes else ENTRY_MARGIN)) * dense
    noise = sum(p.noise * p.dense for p in passes.values()) / max(dense, 1e-9)
    lead = abs(math.log(max(sparse, 1e-9) / max(dense, 1e-9)))
    doubtful = noise > NOISE and lead < 2 * noise
    dense_passes = dense_passes if wins else _NO_PASSES
    return Choice(wins, "measured", dense_passes, dense, sparse, timings, doubtful)


def decide_stem(timings: Timings, wanted: Sequence[str]) -> bool:
    """Say whether a dense convolution should be computed in lanes, as its result goes on there.

    timings: with a mask that keeps everything.  x arrives plain.
    """
    passes = [timings.passes[name] for name in wanted]
    c = timings.conversions
    dense = sum(p.dense for p in passes) + c.to_y + (c.from_y if len(passes) > 1 else 0.0)
    in_lanes = sum(p.sparse for p in passes) + c.to_x
    in_lanes += c.from_x if "grad_input" in wanted else 0.0
    return in_lanes <= (1 - MARGIN) * dense


_WANTED = {
    (x, weight): ("forward", *["grad_input"] * x, *["grad_weight"] * weight)
    for x in (False, True)
    for weight in (False, True)
}


def wanted_passes(x: Tensor, weight: Tensor) -> tuple[str, ...]:
    """List the passes that a forward of `x` now leads to."""
    if not torch.is_grad_enabled():
        return _WANTED[False, False]
    return _WANTED[x.requires_grad, weight.requires_grad]


def measurable(op: str, x: Tensor) -> bool:
    """Say whether sparse and dense can be timed against each other for `x`."""
    if x.device.type == "cuda":
        return (
            op == "masked_conv2d"
            and x.dtype in GPU_DTYPES
            and x.numel() > 0
            and is_eager(x)
            and backends.served(op, "cuda")
        )
    if not libraries.has_kernel(op, "cpu"):
        return False
    if op == "masked_conv2d":
        return can_use_lanes(x)
    return x.dim() > 0 and is_plain_eager_cpu(x, DTYPES)


def measures(op: str, x: Tensor) -> bool:
    """Say whether the choice for `x` is made by measuring."""
    return (
        mode() == "measured"
        and not torch.compiler.is_compiling()
        and backends.forced() is None
        and not torch.are_deterministic_algorithms_enabled()
        and measurable(op, x)
    )


# --- the cache --------------------------------------------------------------------------------


def clear_choices() -> None:
    """Forget every measured time.

    Modules keep the choices they made; what is chosen from now on is measured anew. Takes and
    returns nothing.
    """
    _timings.clear()


def rounded(count: int) -> int:
    """Round a batch up to a power of two: batches that share a choice."""
    return 1 << (count - 1).bit_length()


def needs_no_conversion(x: Tensor) -> bool:
    """Say whether sparse kernels take `x` as it arrives: in lanes, or on a GPU."""
    return x.device.type == "cuda" or in_lanes(x)


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
    if x.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return None  # nothing runs while a graph is captured
    layout = layout_of(x)
    size = (rounded(x.shape[0]), *x.shape[1:])
    settings = (*map(tuple, conv[:3]), conv[3], layout)
    on = (measure_gpu if x.device.type == "cuda" else measure_cpu).measure_conv
    where: tuple = ()
    if x.device.type == "cuda":
        where = (x.device, round(candidates_for(mask, conv[3]).relative_time, 2))
    key = ("masked_conv2d", size, *settings, *_key(weight, mask), *where)
    return _cached(key, lambda: on(x.shape, weight, mask, plan, conv, layout=layout), anew)


def linear_timings(
    x: Tensor, weight: Tensor, mask: Tensor, plan: Tensor | None, *, anew: bool = False
) -> Timings | None:
    """Return the timings of a linear layer, measured unless known; None if it cannot be.

    x: (..., C_in), on the CPU.  weight, mask: (C_out, C_in).  plan: the mask's, or None.
    anew: measure also what is known.
    """
    if not _alike(x, weight) or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        return None
    rows = x.numel() // weight.shape[1]
    key = ("masked_linear", rounded(rows), *_key(weight, mask))
    return _cached(key, lambda: measure_cpu.measure_linear(rows, weight, mask, plan), anew)


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
