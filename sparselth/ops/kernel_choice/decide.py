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
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import check_name
from .. import backends, libraries
from ..gpu.kernel import DTYPES as GPU_DTYPES
from ..lanes.convert import DTYPES, can_use_lanes, is_eager, is_plain_eager_cpu
from ..lanes.tensor import in_lanes
from ..switches import choosing, mode
from .measure_cpu import Timings

MODES = ("measured", "graphed", "fixed")

# A choice is in doubt where the rounds disagreed by this much, and its lead is not twice as large.
NOISE = 0.1

# Timing is noisy; and what is equally fast should stay what users know.
MARGIN, ENTRY_MARGIN = 0.03, 0.2


def checked_mode(name: str) -> str:
    """Return `name` if it is a mode of choosing; raises SparselthError otherwise."""
    check_name("choice", name, MODES)
    return name


def use_choice(name: str) -> AbstractContextManager[None]:
    """Choose between sparse and dense by measuring, or by a fixed table, in the `with` block.

    Decorates a function as well.
    name: "measured", which is fastest; "graphed", the same for steps that run as CUDA graphs, where
    it does not count how long the host takes to launch kernels; or "fixed", which gives the same
    numbers, bit for bit, in every run. Outside of any block, and in threads started inside one, the
    environment variable SPARSELTH_CHOICE holds, or "measured". The fixed table also serves
    deterministic algorithms (`torch.use_deterministic_algorithms`), and compiled and traced
    programs.

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
    if timings.host and mode() == "measured":
        # Device and host work side by side: a layer takes as long as the slower of them.
        host = {name: timings.host[name] for name in wanted}
        dense = max(dense, sum(h.dense for h in host.values()))
        mixed = (h.dense if name in dense_passes else h.sparse for name, h in host.items())
        sparse = max(sparse, sum(mixed))
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
            op in ("masked_conv2d", "masked_linear")
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
        mode() in ("measured", "graphed")
        and not torch.compiler.is_compiling()
        and backends.forced() is None
        and not torch.are_deterministic_algorithms_enabled()
        and measurable(op, x)
    )


def needs_no_conversion(x: Tensor) -> bool:
    """Say whether sparse kernels take `x` as it arrives: in lanes, or on a GPU."""
    return x.device.type == "cuda" or in_lanes(x)
