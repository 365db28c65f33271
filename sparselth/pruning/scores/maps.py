"""Which activation, and which norm, follow a layer: found by following its output in a forward.

Nothing is assumed of how a model is written: a function mode sees each call of torch that its
forward makes, and a trail on the tensor says which layers' channels it still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ...errors import SparselthError
from ...nn.kinds import owners_of
from ..tensors import layer_of
from .batches import first_input, input_of
from .running import run, without_pruned

# By the names of the functions, without underscores: nn.functional's, torch's, and methods.
_ACTIVATIONS = frozenset(
    (
        *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
        *("mish", "softplus", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh", "clamp"),
        *("clamp_min", "clip", "logsigmoid", "softsign", "tanhshrink", "softshrink", "hardshrink"),
        "threshold",
    )
)
# Keep channels apart, whatever they do to one.
_BY_CHANNEL = frozenset(
    (
        *("add", "iadd", "radd", "sub", "isub", "mul", "imul", "rmul", "div", "itruediv"),
        *("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"),
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"),
        *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d"),
        *("adaptive_max_pool2d", "contiguous", "clone", "to", "float", "double", "type"),
        *("interpolate", "pad"),
    )
)

_TRAIL = "_sparselth_trail"

Layers = dict[str, list[Any]]
"""Weight name -> the layers that have it."""

# What becomes of a layer's map: called with the weight's name, which call of a followed layer in
# this forward it is of, which map of that call, and the map (N, C, ...); returns what takes its
# place.
Edit = Callable[[str, int, int, Tensor], Tensor]


@dataclass
class _Call:
    """One call of a followed layer.

    name: of its weight.  place: which call it is.  axis: that of its channels.  maps: how many
    there were on the way.  last: the map after an activation, or the last one that still had the
    layer's channels.
    """

    name: str
    place: int
    axis: int
    last: Tensor
    maps: int = 0


@dataclass
class Follow(TorchFunctionMode):
    """Follows what layers give, in forwards within this context.

    layers: weight name -> the modules that have it.  edit: puts something else in the place of
    maps, see `Edit`.  calls: of the layers, in the order of the forward.  norms: weight name -> the
    batch norm that its layer goes into first.
    """

    layers: Layers
    model: nn.Module
    edit: Edit | None = None
    calls: list[_Call] = field(default_factory=list)
    norms: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._hooks = ExitStack()

    def __enter__(self) -> Follow:
        for name, layers in self.layers.items():
            for layer in layers:
                self._hook(layer, self._begins(name))
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                self._hook(module, self._normed)
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self._hooks.close()

    def _hook(self, module: nn.Module, hook: Any) -> None:
        self._hooks.callback(module.register_forward_hook(hook).remove)

    def _begins(self, name: str) -> Any:
        def begins(module: nn.Module, inputs: Any, out: Any) -> Any:
            if not isinstance(out, Tensor):
                return out
            axis = -1 if isinstance(module, nn.Linear) else 1
            call = _Call(name, len(self.calls), axis, out)
            self.calls.append(call)
            return self._reached([call], out)

        return begins

    def _normed(self, module: nn.Module, inputs: Any, out: Any) -> Any:
        trail = _trail(inputs[:1])
        for call in trail:
            self.norms.setdefault(call.name, module)
        # A norm that computes by ops of its own leaves no trail.
        return self._reached(trail, out) if trail and not _trail([out]) else out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        trail = _trail((*args, *(kwargs or {}).values()))
        if not isinstance(out, Tensor) or not trail:
            return out
        what = getattr(func, "__name__", "").strip("_")
        if what in _ACTIVATIONS:
            out = self._reached(trail, out)
            setattr(out, _TRAIL, ())
            for call in trail:
                call.last = call.last.clone()  # what follows may be written to it
        elif what in _BY_CHANNEL:
            out = self._reached(trail, out)
        return out

    def _reached(self, trail: Sequence[_Call], out: Tensor) -> Tensor:
        """Note the map that layers have reached, or what `edit` puts in its place."""
        fits = [c for c in trail if _channels(out, c.axis) == _channels(c.last, c.axis)]
        for call in fits:
            if self.edit is not None:
                moved = out.movedim(call.axis, 1)
                out = self.edit(call.name, call.place, call.maps, moved).movedim(1, call.axis)
            call.maps += 1
        for call in fits:
            call.last = out
        setattr(out, _TRAIL, tuple(fits))
        return out


def _channels(tensor: Tensor, axis: int) -> int:
    return tensor.shape[axis] if tensor.dim() >= 2 else -1


def _trail(values: Iterable[Any]) -> list[_Call]:
    """Return the calls of layers whose channels these tensors hold."""
    found: dict[int, _Call] = {}
    for value in values:
        if isinstance(value, Tensor):
            found.update((id(call), call) for call in getattr(value, _TRAIL, ()))
    return list(found.values())


def layers_of(model: nn.Module, weights: Iterable[str]) -> Layers:
    """Return the layers of each weight: several where they share it, but for embeddings.

    Raises SparselthError for transposed convolutions of several groups.
    """
    owners = owners_of(model)
    found: Layers = {}
    for name in weights:
        first, local = layer_of(model, name), name.rpartition(".")[2]
        sharing = owners.get(id(first._parameters.get(local)), [])
        able = dict.fromkeys(m for _, m, _ in sharing if not isinstance(m, _EMBEDDINGS))
        found[name] = list(able) or [first]
        for layer in found[name]:
            if getattr(layer, "transposed", False) and layer.groups > 1:
                raise SparselthError(
                    f"{name} is that of a {type(layer).__name__} of {layer.groups} groups, which "
                    "has no filter for each of its outputs; exclude it, or take a score of weights"
                )
    return found


_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)  # what they give are inputs of the others


@torch.no_grad()
def feature_maps(
    model: nn.Module, weights: Sequence[str], data: Iterable[Any], left: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of a weight and a map of its layer: see `ScoreContext.activations`.

    left: parameter name -> bool mask; the model is that without what they prune.
    """
    layers, number = layers_of(model.eval(), weights), -1
    pruned = without_pruned(model, left)
    for number, batch in enumerate(data):
        with Follow(layers, model) as follow:
            run(pruned, input_of(batch), number)
        _check_called(layers, follow)
        for call in follow.calls:
            found = call.last.movedim(call.axis, 1)
            found = found if found.dtype == torch.float64 else found.float()
            if not found.numel():
                raise SparselthError(f"batch {number} of data has no examples; leave it out")
            if not bool(torch.isfinite(found).all()):
                raise SparselthError(
                    f"what the layer of {call.name!r} gives holds NaN or Inf in batch {number}"
                )
            yield call.name, found
    if number < 0:
        raise SparselthError("data holds no batch; a score of activations wants at least one")


@torch.no_grad()
def following_norms(
    model: nn.Module, weights: Sequence[str], data: Iterable[Any]
) -> dict[str, nn.Module]:
    """Return the batch norm that follows each weight's layer: see `ScoreContext.norms`."""
    layers = layers_of(model.eval(), weights)
    with Follow(layers, model) as follow:
        run(model, first_input(data), 0)
    _check_called(layers, follow)
    without = [n for n in layers if getattr(follow.norms.get(n), "weight", None) is None]
    if without:
        raise SparselthError(
            f"no batch norm with a scale follows the layers of {', '.join(without)}; exclude them, "
            "or take another score"
        )
    return {name: follow.norms[name] for name in layers}


def _check_called(layers: Layers, follow: Follow) -> None:
    unused = sorted(layers.keys() - {call.name for call in follow.calls})
    if unused:
        raise SparselthError(
            f"the layers of {', '.join(unused)} give no map of their own in a forward: they are "
            "not called, or by the functions of another module; exclude them"
        )
