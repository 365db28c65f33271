"""Convolutions, norms, shortcuts and ReLUs in a row, as one node: containers that know the order.

Modules are called one by one, and what a call costs does not depend on the size of its images.
`sparselth.sparsify` gives containers whose `forward` is known, `torch.nn.Sequential` and the units
of ResNets, a class that looks for a masked convolution and what follows it, and runs them at once
where nobody could tell: no hook is registered, nothing is recorded or transformed. Otherwise, and
for whatever else they hold, the modules are called as before.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.fx import Proxy
from torch.nn.modules import module as torch_module

from ..ops.autograd.conv_norm import ConvNorms, Link, NormSettings
from ..ops.contract import compute_dtype, output_size
from ..ops.lanes.convert import enter_lanes
from ..ops.lanes.tensor import in_lanes
from .masked import MaskedConv2d
from .norm import LaneBatchNorm2d
from .paths import kind_after, kind_of

# Whether somebody handles what nodes save: to compute it again, as torch.utils.checkpoint, which
# counts it. The first input of its kind goes module by module, and then all have to.
_saving_is_hooked = torch._C._autograd._top_saved_tensors_default_hooks

# Other subclasses may not take ours among them.
_PLAIN = (Tensor, nn.Parameter)

# The limits of what may follow a norm: see `ConvNorms`.
_LIMITS: dict[type[nn.Module], float] = {nn.ReLU: math.nan, nn.ReLU6: 6.0}


class Trio(NamedTuple):
    """Modules one after the other: relu(norm(conv(x))), or norm(conv(x))."""

    conv: nn.Module
    norm: nn.Module
    relu: nn.Module | None


def conv_norms(trios: Sequence[Trio], x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """Return `x` after each of `trios`, as many by one node as makes no difference.

    x: (N, C_in, H, W).  shortcut: of the result's shape, added before the last ReLU, or None.
    """
    while trios:
        links, parameters = _known_links(trios, x, shortcut)
        if not links:
            x = _by_modules(trios[0], x, shortcut if len(trios) == 1 else None)
            trios = trios[1:]
            continue
        for trio in trios[: len(links)]:
            norm: Any = trio.norm
            counter = norm._buffers["num_batches_tracked"]
            if norm.training and norm.track_running_stats and counter is not None:
                counter.add_(1)
        trios = trios[len(links) :]
        second = None if trios else shortcut
        adds_input = second is x
        given = (None if adds_input else second, adds_input, tuple(links), *parameters)
        x = ConvNorms.apply(enter_lanes(x), *given)
    return x


def _by_modules(trio: Trio, x: Tensor, shortcut: Tensor | None) -> Tensor:
    out = trio.norm(trio.conv(x))
    out = out if shortcut is None else out + shortcut
    return out if trio.relu is None else trio.relu(out)


def _known_links(
    trios: Sequence[Trio], x: Tensor, shortcut: Tensor | None
) -> tuple[list[Link], list[Tensor | None]]:
    """Return as many of the first as `ConvNorms` takes and nobody watches, and their parameters."""
    links: list[Link] = []
    parameters: list[Tensor | None] = []
    if (
        not (in_lanes(x) or type(x) is Tensor)
        or x.is_cuda
        or torch_module._has_any_global_hook()
        or _saving_is_hooked(False)
    ):
        return links, parameters
    kind, shape, requires_grad = None, tuple(x.shape), x.requires_grad
    for trio in trios:
        conv, norm, relu = _own(trio)
        weight = None if conv is None else conv._parameters.get("weight")
        if type(weight) is not nn.Parameter:
            break
        kind = kind_after(kind, shape, requires_grad, weight) if kind else kind_of(x, weight)
        path = conv._path_of(kind)
        if path is None or not path.choice.sparse or path.choice.dense_passes:
            break
        if path.dtype is not x.dtype or not _takes(norm, x.dtype, conv.out_channels):
            break
        state = conv._states["weight"]
        size = _output_size(shape, state.mask.shape, path.conv)
        shape = (x.shape[0], conv.out_channels, *size)
        if norm.training and x.shape[0] * size[0] * size[1] <= 1:
            break  # torch says what it lacks
        if shortcut is not None and trio is trios[-1] and not _addable(shortcut, shape, x.dtype):
            break
        limit = None if relu is None else _LIMITS[type(relu)]
        moments = bool(conv.feeds_norm and conv.training)
        links.append(Link(state.mask, path.plan, path.conv, _settings(norm), limit, moments))
        own = (conv._parameters["bias"], norm._parameters["weight"], norm._parameters["bias"])
        given = (state.parameter, *own)
        parameters += given
        requires_grad = torch.is_grad_enabled() and (
            requires_grad or any(t is not None and t.requires_grad for t in given)
        )
    return links, parameters


def _own(trio: Trio) -> tuple[Any, Any, Any]:
    """Return the modules where all are ours and none is watched; three times None otherwise."""
    conv, norm, relu = trio
    if (
        type(conv) is not MaskedConv2d
        or type(norm) is not LaneBatchNorm2d
        or not (relu is None or type(relu) in _LIMITS)
        or any(module is not None and _is_watched(module) for module in trio)
    ):
        return None, None, None
    return trio


def _settings(norm: Any) -> NormSettings:
    mean, variance = norm._buffers["running_mean"], norm._buffers["running_var"]
    by_batch = norm.training or mean is None
    if norm.training and not norm.track_running_stats:
        mean = variance = None
    return NormSettings(mean, variance, by_batch, norm.momentum, norm.eps)


def _addable(shortcut: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return in_lanes(shortcut) and shortcut.dtype is dtype and shortcut.shape == shape


def _output_size(x: Sequence[int], weight: torch.Size, conv: Any) -> tuple[int, int]:
    stride, padding, dilation, _ = conv
    height, width = (
        output_size(x[2 + i], weight[2 + i], stride[i], padding[i], dilation[i]) for i in range(2)
    )
    return height, width


def _is_watched(module: nn.Module) -> bool:
    """Say whether somebody wants to know what goes into a module, or comes out."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _takes(norm: Any, dtype: torch.dtype, channels: int) -> bool:
    """Say whether a norm is one of these channels, and its gradients are those of `ConvNorms`."""
    own, buffers, computed = norm._parameters, norm._buffers, compute_dtype(dtype)
    if "weight" not in own or "bias" not in own or norm.num_features != channels:
        return False
    values = (own["weight"], own["bias"], buffers["running_mean"], buffers["running_var"])
    by_batch = norm.training or buffers["running_mean"] is None
    return (
        (by_batch or not torch.is_grad_enabled())
        and norm.momentum is not None
        and all(t is None or (t.dtype is computed and type(t) in _PLAIN) for t in values)
    )


def _in_a_row(unit: Any, x: Tensor) -> Tensor:
    """Run modules one after the other, and at once those that belong together."""
    modules = list(_flat(unit))
    at = 0
    while at < len(modules):
        trios = _trios(modules[at:])
        if trios:
            x = conv_norms(trios, x)
            at += sum(2 if trio.relu is None else 3 for trio in trios)
        else:
            x = modules[at](x)
            at += 1
    return x


def _flat(unit: Any) -> Iterator[nn.Module]:
    """Yield the modules of a container that runs them in a row, and those of such ones in it."""
    for module in unit._modules.values():
        is_row = isinstance(module, LaneContainer) and module.is_row
        if is_row and not _is_watched(module) and not torch_module._has_any_global_hook():
            yield from _flat(module)
        else:
            yield module


def _trios(modules: Sequence[nn.Module]) -> list[Trio]:
    """Return as many of the first modules as are convolutions with their norms and ReLUs."""
    found: list[Trio] = []
    at = 0
    while [type(module) for module in modules[at : at + 2]] == [MaskedConv2d, LaneBatchNorm2d]:
        conv, norm, *rest = modules[at : at + 3]
        relu = rest[0] if rest and type(rest[0]) in _LIMITS else None
        found.append(Trio(conv, norm, relu))
        at += 2 if relu is None else 3
    return found


def _two_convolutions(unit: Any, x: Tensor) -> Tensor:
    shortcut = _shortcut(unit, x)
    first, second = Trio(unit.conv1, unit.bn1, unit.relu), Trio(unit.conv2, unit.bn2, unit.relu)
    return conv_norms((first, second), x, shortcut)


def _three_convolutions(unit: Any, x: Tensor) -> Tensor:
    shortcut = _shortcut(unit, x)
    first, second = Trio(unit.conv1, unit.bn1, unit.relu), Trio(unit.conv2, unit.bn2, unit.relu)
    return conv_norms((first, second, Trio(unit.conv3, unit.bn3, unit.relu)), x, shortcut)


def _shortcut(unit: Any, x: Tensor) -> Tensor:
    return x if unit.downsample is None else unit.downsample(x)


# Containers by name, as ours must not be imported from here and torchvision's need not be there.
_FORWARDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "torch.nn.modules.container.Sequential": _in_a_row,
    "torchvision.ops.misc.Conv2dNormActivation": _in_a_row,
    "torchvision.models.resnet.BasicBlock": _two_convolutions,
    "torchvision.models.resnet.Bottleneck": _three_convolutions,
    "sparselth.models.resnet.BasicBlock": _two_convolutions,
}


class LaneContainer(nn.Module):
    """A container that runs what belongs together at once. Mixed into those of `_FORWARDS`."""

    plain: type[nn.Module]
    is_row: bool  # whether it runs its modules one after the other


def lane_container(container: type[nn.Module]) -> type[Any] | None:
    """Return the class that a container may change to, or None."""
    name = f"{container.__module__}.{container.__qualname__}"
    return _made(name, container) if name in _FORWARDS else None


def _made(name: str, container: type[nn.Module]) -> type[Any]:
    own = "Lane_" + name.replace(".", "_")
    if own not in globals():
        run = _FORWARDS[name]

        @functools.wraps(container.forward)  # what records or exports a model reads the signature
        def forward(self, *args, **kwargs):
            if kwargs or len(args) != 1 or is_dynamo_compiling() or isinstance(args[0], Proxy):
                return container.forward(self, *args, **kwargs)
            return run(self, args[0])

        attributes = {
            "plain": container,
            "is_row": run is _in_a_row,
            "forward": forward,
            "__module__": __name__,
            "__qualname__": own,
            "__doc__": f"`{container.__name__}` after `sparsify`; see `sparselth.nn.containers`.",
        }
        # Messages and prints name it as its users do; files find it by the other name.
        globals()[own] = type(container.__name__, (LaneContainer, container), attributes)
    return globals()[own]


def __getattr__(name: str) -> Any:
    # A saved model names these classes, which are made when they are asked for.
    for known in _FORWARDS:
        if name == "Lane_" + known.replace(".", "_"):
            module, _, local = known.rpartition(".")
            return _made(known, getattr(importlib.import_module(module), local))
    raise AttributeError(name)
