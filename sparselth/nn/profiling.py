"""What serves each masked layer of a model, and what sparse and dense cost there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..checks import called, check_model, kind
from ..errors import SparselthError
from ..ops.kernel_choice import decide as choosing
from ..ops.kernel_choice.measure_cpu import Timings
from ..ops.patterns import classify
from .choosing import ChoosingModule
from .geometry import settings_of
from .kinds import masked_modules
from .module import MaskedModule


@dataclass(frozen=True)
class ProfileRow:
    """One call of a masked layer.

    kind: the module's class.  geometry: its settings and input shape.  sparsity: in [0, 1].
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
class Profile:
    """The masked layers of a model in the order they ran. Printed, it is a table."""

    rows: list[ProfileRow] = field(default_factory=list)

    def __str__(self) -> str:
        return _table(self.rows)


def profile(model: nn.Module, x: Any, *, backward: bool = True) -> Profile:
    """Say what serves each masked layer for the input `x`, and time sparse against dense there.

    model: made sparse by `sparsify`; runs once, in evaluation mode, and is left as it was.
    x: what the model takes: a tensor, a tuple or list of arguments, or a dict of them by keyword.
    backward: count the passes of training; False counts the forward.
    Times are measured layer by layer, on the device of the layer's input, also where the choice is
    fixed or forced. Layers that no sparse kernel serves are listed as dense, without times.

    Raises SparselthError for an `x` that the model cannot take, or what is no model.
    """
    check_model(model)
    args, kwargs = _arguments(x)
    rows: list[ProfileRow] = []
    # The passes of training do not run on inference tensors, wherever this is called.
    with torch.inference_mode(False), torch.set_grad_enabled(backward):
        args, kwargs = tree_map_only(Tensor, _ordinary, (args, kwargs))
        with _observed(model, backward, rows):
            called(model, args, "x", **kwargs)
    return Profile(rows)


def _arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(x, Tensor):
        return (x,), {}
    if isinstance(x, (tuple, list)):
        return tuple(x), {}
    if isinstance(x, Mapping) and all(isinstance(name, str) for name in x):
        return (), dict(x)
    raise SparselthError(
        "x is what the model takes: a tensor, a tuple of arguments or a dict of them by keyword; "
        f"got {type(x).__name__}"
    )


def _ordinary(x: Tensor) -> Tensor:
    return x.clone() if x.is_inference() else x


@contextmanager
def _observed(model: nn.Module, backward: bool, rows: list[ProfileRow]) -> Iterator[None]:
    """Evaluation mode, and hooks that add a row per call; both undone at the end."""
    training = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        for name, module in masked_modules(model):

            def before(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
                x = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
                if x is None:
                    raise SparselthError(
                        f"layer {name!r} got no tensor; x is what the model takes, got "
                        f"{', '.join(map(kind, (*args, *kwargs.values()))) or 'nothing'}"
                    )
                row = _row if isinstance(module, ChoosingModule) else _dense_row
                rows.append(row(name, module, x))

            handle = module.register_forward_pre_hook(before, with_kwargs=True)
            stack.enter_context(_removed(handle))
        model.eval()
        try:
            yield
        finally:
            for observed, was in training.items():
                observed.training = was


@contextmanager
def _removed(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _row(name: str, module: ChoosingModule, x: Tensor) -> ProfileRow:
    made = module.choice(x)
    arrives, wanted = (
        choosing.needs_no_conversion(x),
        choosing.wanted_passes(x, module.get_parameter("weight")),
    )
    timings = made.timings or module.timings(x)
    totals = choosing.decide(timings, wanted, arrives) if timings else made
    passes = [timings.passes[each] for each in wanted] if timings else []
    return ProfileRow(
        name=name,
        kind=type(module).__name__,
        geometry=_geometry(module, x),
        sparsity=module.sparsity,
        pattern=classify(module.masks()["weight"]),
        in_lanes=choosing.in_lanes(x),
        by=made.by,
        backend={each: made.serves(each) for each in wanted},
        dense_ms=sum(p.dense for p in passes) if passes else math.nan,
        sparse_ms=totals.sparse_ms + sum(p.sparse - p.best for p in passes),
        chosen_ms=totals.sparse_ms if made.sparse else totals.dense_ms,
        timings=timings,
    )


def _dense_row(name: str, module: MaskedModule, x: Tensor) -> ProfileRow:
    nothing = math.nan
    return ProfileRow(
        name=name,
        kind=type(module).__name__,
        geometry="x".join(map(str, x.shape)),
        sparsity=module.sparsity,
        pattern=classify(next(iter(module.masks().values()))),
        in_lanes=False,
        by="fixed",
        backend={"forward": "dense"},
        dense_ms=nothing,
        sparse_ms=nothing,
        chosen_ms=nothing,
        timings=None,
    )


def _geometry(module: ChoosingModule, x: Tensor) -> str:
    shape = "x".join(map(str, x.shape))
    if not isinstance(module, nn.Conv2d):
        return f"{shape} -> {module.get_parameter('weight').shape[0]}"
    text = f"{shape} -> {module.out_channels}, {'x'.join(map(str, module.kernel_size))}"
    stride, _, _ = settings_of(module, 2)
    if any(step != 1 for step in stride):
        text += f" /{stride[0]}"
    if module.groups != 1:
        text += f", {module.groups} groups"
    return text


# --- the table --------------------------------------------------------------------------------

_HEADER = ("layer", "input", "sparsity", "pattern", "backend", "dense ms", "sparse ms", "ratio")
_TEXT = {0, 1, 3, 4}  # columns aligned to the left


def _table(rows: Sequence[ProfileRow]) -> str:
    if not rows:
        return "no masked layers: use sparselth.sparsify first"
    cells = [_HEADER, *(_cells(row) for row in rows), _totals(rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


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
