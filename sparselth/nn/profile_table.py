"""What `profile` returns, and how it is printed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..ops.kernel_choice.measure_cpu import Timings


@dataclass(frozen=True)
class ProfileRow:
    """One call of a masked layer.

    name: of the module, as in `model.named_modules()`.  kind: its class.  geometry: its settings
    and input shape.  sparsity: in [0, 1].
    pattern: "element", "filter", "channel" or "dense", see `sparselth.ops.patterns.classify`.
    in_lanes: whether the input arrived in the layout of the sparse kernels of a CPU.  by: how the
    choice was made, "measured" or "fixed".  backend: pass -> "sparse" or "dense".
    dense_ms: all passes dense, in a dense model.  sparse_ms: all passes sparse, and on a CPU the
    way into lanes and out of them where the input is not in lanes.  chosen_ms: what was chosen,
    here.  NaN where nothing can be timed.  timings: each pass by itself.
    """

    name: str
    kind: str
    geometry: str
    sparsity: float
    pattern: str
    in_lanes: bool
    by: str
    backend: dict[str, str]
    dense_ms: float
    sparse_ms: float
    chosen_ms: float
    timings: Timings | None

    @property
    def ratio(self) -> float:
        """How many times faster sparse is than dense; NaN where nothing can be timed."""
        return self.dense_ms / self.sparse_ms


@dataclass(frozen=True)
class LaneExit:
    """An activation that left lanes, the layout of a CPU's sparse kernels, which costs a pass.

    name: of the module that was running, innermost; "" for the model itself.  op: what took plain
    values, such as "aten.silu".  shape: of the activation, (N, C, H, W).  why: it did.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class Profile:
    """The masked layers of a model in the order they ran; printed, it is a table.

    rows: one for each call of a layer.  exits: where activations leave the layout of a CPU's
    kernels, in the order it happened.
    """

    rows: list[ProfileRow] = field(default_factory=list)
    exits: list[LaneExit] = field(default_factory=list)

    def __str__(self) -> str:
        return _table(self.rows, self.exits)


_HEADER = ("layer", "input", "sparsity", "pattern", "backend", "dense ms", "sparse ms", "ratio")
_TEXT = {0, 1, 3, 4}  # columns aligned to the left


def _table(rows: Sequence[ProfileRow], exits: Sequence[LaneExit]) -> str:
    if not rows:
        return "no masked layers: use sparselth.sparsify first"
    cells = [_HEADER, *(_cells(row) for row in rows), _totals(rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *_left(exits)])


def _left(exits: Sequence[LaneExit]) -> Iterator[str]:
    if exits:
        yield "\nActivations leave the layout of the sparse kernels:"
    for one in exits:
        yield (
            f"  {one.name or 'the model'}, {one.op} of {'x'.join(map(str, one.shape))}: {one.why}"
        )


def _aligned(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for column, (text, width) in enumerate(zip(line, widths, strict=True)):
        yield text.ljust(width) if column in _TEXT else text.rjust(width)


def _cells(row: ProfileRow) -> tuple[str, ...]:
    return (
        row.name or row.kind,
        row.geometry,
        f"{100 * row.sparsity:.1f} %",
        row.pattern,
        _backend(row),
        _number(row.dense_ms),
        _number(row.sparse_ms),
        _number(row.ratio),
    )


def _backend(row: ProfileRow) -> str:
    """Name the backend, or where passes differ, those that are dense."""
    dense = [name for name, backend in row.backend.items() if backend == "dense"]
    if not dense or len(dense) == len(row.backend):
        return "dense" if dense else "sparse"
    return f"sparse; dense {', '.join(dense)}"


def _totals(rows: Sequence[ProfileRow]) -> tuple[str, ...]:
    timed = [row for row in rows if row.timings is not None] or rows
    dense, sparse = sum(row.dense_ms for row in timed), sum(row.sparse_ms for row in timed)
    chosen = sum(row.chosen_ms for row in timed)
    tail = "" if math.isnan(chosen) else f"as chosen {_number(chosen)} ms"
    return ("total", "", "", "", tail, _number(dense), _number(sparse), _number(dense / sparse))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
