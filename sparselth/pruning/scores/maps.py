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

from ...checks import called, kind
from ...errors import SparselthError
from ..tensors import layer_of

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

# What becomes of a layer's map: called with the weight's name, which map of that layer in this
# forward it is, and the map (N, C, ...); returns what takes its place.
Edit = Callable[[str, int, Tensor], Tensor]


@dataclass
class _Call:
    """One call of a followed layer.

    name: of its weight.  axis: that of its channels.  maps: how many there were on the way.
    last: the map after an activation, or the last one that still had the layer's channels.
    """

    name: str
    axis: int
    last: Tensor
    maps: int = 0


@dataclass
class Follow(TorchFunctionMode):
    """Follows what layers give, in forwards within this context.

    layers: weight name -> module.  edit: puts something else in the place of maps, see `Edit`.
    calls: of the layers, in the order of the forward.  norms: weight name -> the batch norm that
    its layer goes into first.
    """

    layers: Mapping[str, nn.Module]
    model: nn.Module
    edit: Edit | None = None
    calls: list[_Call] = field(default_factory=list)
    norms: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._hooks = ExitStack()

    def __enter__(self) -> Follow:
        for name, layer in self.layers.items():
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
            call = _Call(name, axis, out)
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
                out = self.edit(call.name, call.maps, moved).movedim(1, call.axis)
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


def layers_of(model: nn.Module, weights: Iterable[str]) -> dict[str, nn.Module]:
    """Return the layer of each weight."""
    return {name: layer_of(model, name) for name in weights}


@torch.no_grad()
def feature_maps(
    model: nn.Module, weights: Sequence[str], data: Iterable[Any]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of a weight and a map of its layer: see `ScoreContext.activations`."""
    model = getattr(model.eval(), "_orig_mod", model)  # of what torch.compile wraps, as eager
    layers, number = layers_of(model, weights), -1
    for number, batch in enumerate(data):
        with Follow(layers, model) as follow:
            called(model, [input_of(batch)], f"the x of batch {number}")
        _check_called(layers, follow)
        for call in follow.calls:
            found = call.last.movedim(call.axis, 1)
            found = found if found.dtype == torch.float64 else found.float()
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
    model = getattr(model.eval(), "_orig_mod", model)
    layers = layers_of(model, weights)
    with Follow(layers, model) as follow:
        called(model, [first_input(data)], "the first x of data")
    _check_called(layers, follow)
    without = [n for n in layers if getattr(follow.norms.get(n), "weight", None) is None]
    if without:
        raise SparselthError(
            f"no batch norm with a scale follows the layers of {', '.join(without)}; exclude them, "
            "or take another score"
        )
    return {name: follow.norms[name] for name in layers}


def input_of(batch: Any) -> Any:
    """Return the x of a batch (x, y), or a batch that is x itself."""
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def first_input(data: Iterable[Any]) -> Tensor:
    """Return the x of the first batch.

    Raises SparselthError where there is none, or it is no tensor.
    """
    x = input_of(next(iter(data), None))
    if not isinstance(x, Tensor):
        raise SparselthError(f"data must begin with a batch (x, y), x a tensor; got {kind(x)}")
    return x


def _check_called(layers: Mapping[str, nn.Module], follow: Follow) -> None:
    unused = sorted(layers.keys() - {call.name for call in follow.calls})
    if unused:
        raise SparselthError(
            f"the layers of {', '.join(unused)} give no map of their own in a forward: they are "
            "not called, or by the functions of another module; exclude them"
        )
