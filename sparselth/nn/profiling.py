"""What serves each masked layer of a model, and what sparse and dense cost there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..checks import called, check_model, kind
from ..errors import SparselthError
from ..ops.kernel_choice import decide as choosing
from ..ops.lanes.exits import Exit, told_to
from ..ops.patterns import classify
from .choosing import ChoosingModule
from .geometry import settings_of
from .kinds import masked_modules
from .module import MaskedModule
from .profile_table import LaneExit, Profile, ProfileRow


def profile(model: nn.Module, x: Any, *, backward: bool = True) -> Profile:
    """Say what serves each masked layer for the input `x`, and time sparse against dense there.

    model: made sparse by `sparsify`; runs once, in evaluation mode, and is left as it was.
    x: what the model takes: a tensor, a tuple or list of arguments, or a dict of them by keyword.
    backward: count the passes of training; False counts the forward.
    Times are measured layer by layer, on the device of the layer's input, also where the choice is
    fixed or forced; layers of one kind, size and density share a measurement. Layers that no sparse
    kernel serves are listed as dense, without times; not listed are those whose weights the module
    around them reads, such as the `out_proj` of MultiheadAttention. Compiled models run eagerly.
    On a CPU it lists, too, where an activation leaves the layout of the sparse kernels and why: at
    the end of a network that is as it should be, between two sparse convolutions it costs. What
    only training computes, dropout and the backward, is not looked at.

    Raises SparselthError for an `x` that the model cannot take, or what is no model.
    """
    check_model(model)
    model = getattr(model, "_orig_mod", model)  # of what torch.compile wraps, as it runs eagerly
    args, kwargs = _arguments(x)
    rows: list[ProfileRow] = []
    exits: list[LaneExit] = []
    # The passes of training do not run on inference tensors, wherever this is called.
    with torch.inference_mode(False), torch.set_grad_enabled(backward):
        args, kwargs = tree_map_only(Tensor, _ordinary, (args, kwargs))
        eager = torch.compiler.set_stance("force_eager")
        with eager, _observed(model, backward, rows), _watched(model, rows, exits):
            called(model, args, "x", **kwargs)
    return Profile(rows, exits)


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
                with told_to(None):  # of what is tried here
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
def _watched(model: nn.Module, rows: list[ProfileRow], exits: list[LaneExit]) -> Iterator[None]:
    """Add an exit whenever an activation leaves lanes, with the module that runs then."""
    running = [("", model)]

    def note(left: Exit) -> None:
        name, module = running[-1]
        # What a hook of the user's does runs within the module as well.
        row = rows[-1] if rows and rows[-1].name == name else None
        dense = isinstance(module, ChoosingModule) and row and row.backend["forward"] == "dense"
        why = "dense serves this layer" if dense else left.why
        exits.append(LaneExit(name, left.op, left.shape, why))

    with ExitStack() as stack:
        for name, module in model.named_modules():

            def enter(module: nn.Module, args: Any, name: str = name) -> None:
                running.append((name, module))

            def leave(module: nn.Module, args: Any, out: Any) -> None:
                running.pop()

            stack.enter_context(_removed(module.register_forward_pre_hook(enter)))
            hook = module.register_forward_hook(leave, always_call=True)
            stack.enter_context(_removed(hook))
        with told_to(note):
            yield


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
