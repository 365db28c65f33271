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
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.fx import Proxy
from torch.nn.modules import module as torch_module

from ..ops.autograd.conv_norm import ConvNorm, NormSettings
from ..ops.contract import compute_dtype, output_size
from ..ops.lanes.convert import enter_lanes
from ..ops.lanes.tensor import in_lanes
from .masked import MaskedConv2d
from .norm import LaneBatchNorm2d
from .paths import Path

# Whether somebody handles what nodes save: to compute it again, as torch.utils.checkpoint, which
# counts it. The first input of its kind goes module by module, and then all have to.
_saving_is_hooked = torch._C._autograd._top_saved_tensors_default_hooks

# Other subclasses may not take ours among them.
_PLAIN = (Tensor, nn.Parameter)

# The limits of what may follow a norm: see `ConvNorm`.
_LIMITS: dict[type[nn.Module], float] = {nn.ReLU: math.nan, nn.ReLU6: 6.0}


def conv_norm(
    conv: nn.Module,
    norm: nn.Module,
    relu: nn.Module | None,
    x: Tensor,
    shortcut: Tensor | None = None,
) -> Tensor:
    """Return relu(norm(conv(x)) + shortcut), by one node where that makes no difference.

    conv, norm, relu: the modules.  x: (N, C_in, H, W).  shortcut: of the result's shape, or None.
    """
    path = _path(conv, norm, relu, x, shortcut)
    if path is None:
        out = norm(conv(x))
        out = out if shortcut is None else out + shortcut
        return out if relu is None else relu(out)
    own: Any = conv._parameters
    channel: Any = norm._parameters
    state: Any = conv._states["weight"]  # type: ignore[index]
    counter: Any = norm._buffers["num_batches_tracked"]
    if norm.training and norm.track_running_stats and counter is not None:
        counter.add_(1)
    return ConvNorm.apply(
        enter_lanes(x),
        state.parameter,
        own["bias"],
        channel["weight"],
        channel["bias"],
        shortcut,
        state.mask,
        path.plan,
        path.conv,
        _settings(norm),
        None if relu is None else _LIMITS[type(relu)],
        bool(conv.feeds_norm and conv.training),
    )


def _settings(norm: Any) -> NormSettings:
    mean, variance = norm._buffers["running_mean"], norm._buffers["running_var"]
    by_batch = norm.training or mean is None
    if norm.training and not norm.track_running_stats:
        mean = variance = None
    return NormSettings(mean, variance, by_batch, norm.momentum, norm.eps)


def _path(
    conv: Any, norm: Any, relu: nn.Module | None, x: Tensor, shortcut: Tensor | None
) -> Path | None:
    """Return how the convolution computes `x`, where all are as `ConvNorm` takes them."""
    if (
        type(conv) is not MaskedConv2d
        or type(norm) is not LaneBatchNorm2d
        or not (relu is None or type(relu) in _LIMITS)
        or not (in_lanes(x) or type(x) is Tensor)
        or torch_module._has_any_global_hook()
        or _saving_is_hooked(False)
        or _is_watched(conv)
        or _is_watched(norm)
        or (relu is not None and _is_watched(relu))
    ):
        return None
    path = conv._known_path(x)
    if path is None or not path.choice.sparse or path.choice.dense_passes:
        return None
    if x.is_cuda or path.dtype is not x.dtype or not _takes(norm, x.dtype, conv.out_channels):
        return None
    size = _output_size(x, conv._states["weight"].mask.shape, path.conv)
    if norm.training and x.shape[0] * size[0] * size[1] <= 1:
        return None  # torch says what it lacks
    if shortcut is not None:
        wanted = (x.shape[0], conv.out_channels, *size)
        if not in_lanes(shortcut) or shortcut.dtype != x.dtype or shortcut.shape != wanted:
            return None
    return path


def _output_size(x: Tensor, weight: torch.Size, conv: Any) -> tuple[int, int]:
    stride, padding, dilation, _ = conv
    height, width = (
        output_size(x.shape[2 + i], weight[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
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
    """Say whether a norm is one of these channels, and its gradients are `ConvNorm`'s."""
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
    modules = list(unit._modules.values())
    at = 0
    while at < len(modules):
        module = modules[at]
        if type(module) is MaskedConv2d and at + 1 < len(modules):
            relu = modules[at + 2] if at + 2 < len(modules) else None
            relu = relu if type(relu) in _LIMITS else None
            x = conv_norm(module, modules[at + 1], relu, x)
            at += 2 if relu is None else 3
        else:
            x = module(x)
            at += 1
    return x


def _two_convolutions(unit: Any, x: Tensor) -> Tensor:
    shortcut = _shortcut(unit, x)
    out = conv_norm(unit.conv1, unit.bn1, unit.relu, x)
    return conv_norm(unit.conv2, unit.bn2, unit.relu, out, shortcut)


def _three_convolutions(unit: Any, x: Tensor) -> Tensor:
    shortcut = _shortcut(unit, x)
    out = conv_norm(unit.conv1, unit.bn1, unit.relu, x)
    out = conv_norm(unit.conv2, unit.bn2, unit.relu, out)
    return conv_norm(unit.conv3, unit.bn3, unit.relu, out, shortcut)


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
