"""What of a model's inner values no input changes: with all inputs unknown, what is known stays so.

Unknown is what is NaN, infinite, and minus infinite, in one run each. One of these goes through
whatever torch computes, with two exceptions that matter here: a weight of zero takes nothing, and a
batch norm's scale of zero gives its shift. Values that are the same in all runs, and with the
examples, are constants of the model, not only zero on some batch by luck. (NaN alone would not do:
comparisons lose it, and clamps of some devices.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .channels import axis_of
from .probes import call, changed, evaluating, tensors_in

_LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Constant:
    """Which inputs of a layer are constants, at all positions alike.

    known: (inputs,), bool.  value: (inputs,), that constant; meaningless elsewhere.
    """

    known: Tensor
    value: Tensor


def constant_inputs(model: nn.Module, examples: list[Any]) -> dict[str, Constant]:
    """Return what the inputs of all linear layers and convolutions have of constants.

    examples: inputs as the model takes them. Whole numbers cannot be unknown; they are where an
    embedding looks them up.
    Returns weight name -> constants; nothing where the model does not run on what is unknown.
    """
    seen: Seen = {}
    try:
        with evaluating(model):
            for unknown in _UNKNOWN:
                with _following(model, seen, unknown):
                    for example in _unlike(examples):
                        call(model, changed(example, partial(_filled, value=unknown)))
            with _following(model, seen):
                for example in examples:
                    call(model, example)
    except Exception:  # whatever an arbitrary model raises: then nothing is known
        return {}
    return {
        name: Constant((low == high) & low.isfinite(), low) for name, (low, high) in seen.items()
    }


_UNKNOWN = (torch.nan, torch.inf, -torch.inf)


def _unlike(examples: list[Any]) -> list[Any]:
    """Return the examples that are not the same once they are unknown."""
    whole = any(not tensor.is_floating_point() for tensor in tensors_in(examples))
    return examples if whole else examples[:1]


def _filled(tensor: Tensor, value: float) -> Tensor:
    return torch.full_like(tensor, value) if tensor.is_floating_point() else tensor


Seen = dict[str, tuple[Tensor, Tensor]]
"""Weight name -> the least and the largest of each input of its layer."""


@contextmanager
def _following(model: nn.Module, seen: Seen, unknown: float | None = None) -> Iterator[None]:
    """Keep what comes to layers. unknown: what ends at weights of zero, and goes on elsewhere."""
    hooks = []
    for name, module in model.named_modules():
        if is_plain(module, _LAYERS):
            weight = f"{name}.weight" if name else "weight"
            hooks.append(module.register_forward_pre_hook(_watch(weight, seen)))
            if unknown is not None:
                lost: list[Tensor] = []
                hooks.append(module.register_forward_pre_hook(partial(_hide, lost)))
                hooks.append(module.register_forward_hook(partial(_show, lost, unknown)))
        elif unknown is not None and is_plain(module, _NORMS):
            hooks.append(module.register_forward_hook(_shift_alone))
        elif unknown is not None and isinstance(module, _LOOK_UPS):
            hooks.append(module.register_forward_hook(lambda m, i, y: _filled(y, unknown)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch(weight: str, seen: Seen) -> Any:
    def hook(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        flat = inputs[0].detach().movedim(_axis(layer), 0).flatten(1)
        low, high = flat.amin(1), flat.amax(1)
        if weight in seen:  # minima and maxima with NaN are NaN
            low, high = torch.minimum(low, seen[weight][0]), torch.maximum(high, seen[weight][1])
        seen[weight] = low, high

    return hook


def _axis(layer: Any) -> int:
    """Return the axis of a layer's inputs and outputs that its weight is about."""
    return -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)


def is_plain(module: nn.Module, kinds: tuple[Any, ...]) -> bool:
    """Say whether a module computes what one of torch's kinds of layers does with its weight."""
    own = module._parameters.get("weight") is not None
    return own and any(
        isinstance(module, kind)
        and type(module).forward is kind.forward
        and getattr(type(module), "_conv_forward", None) is getattr(kind, "_conv_forward", None)
        for kind in kinds
    )


def _hide(lost: list[Tensor], layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Let a layer compute with zero for what is unknown. lost: gets which inputs are."""
    x, *others = inputs
    flat = x.movedim(_axis(layer), 0).flatten(1)
    # At the borders a constant and the zeros of a padding mix, so that it is none any more.
    lost.append(~flat.isfinite().all(1) | ((flat != 0).any(1) if pads(layer) else False))
    return (torch.where(x.isfinite(), x, 0), *others)


def _show(
    lost: list[Tensor], unknown: float, layer: Any, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    """Let all outputs of a layer be unknown that take an input which is."""
    shape = [1] * output.dim()
    shape[_axis(layer)] = -1
    return torch.where(_reached(layer, lost.pop()).view(shape), unknown, output)


def _reached(layer: Any, lost: Tensor) -> Tensor:
    """Return which outputs of a layer take any of the inputs that are not known."""
    groups = getattr(layer, "groups", 1)
    takes = (layer.weight != 0).flatten(2).any(2) if layer.weight.dim() > 2 else layer.weight != 0
    if getattr(layer, "transposed", False):  # (inputs, outputs of a group)
        blocks = takes.view(groups, -1, takes.shape[1]).transpose(1, 2)
    else:  # (outputs, inputs of a group)
        blocks = takes.view(groups, -1, takes.shape[1])
    return (blocks & lost.view(groups, 1, -1)).any(2).flatten()


def pads(layer: Any) -> bool:
    """Say whether what a layer makes of a constant is another at the borders."""
    if isinstance(layer, nn.Linear):
        return False
    if layer.transposed:
        return True
    if isinstance(layer.padding, str):
        return bool(layer.padding == "same" and max(layer.kernel_size) > 1)
    return any(layer.padding)


def _shift_alone(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Let channels that a norm scales by zero be its shift."""
    shape = [1, -1, *[1] * (output.dim() - 2)]
    shift = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    return torch.where(norm.weight.view(shape) == 0, shift.view(shape), output)


@torch.no_grad()
def fold(layer: Any, constant: Constant, index: Tensor) -> None:
    """Let a layer's bias take over, in place, what some of its inputs always give.

    index: (count,), int64: which inputs; their weights are to be zero afterwards. A layer without a
    bias gets one where that is anything.
    """
    value = constant.value[index]
    given = value.isfinite() & (value != 0)
    if not given.any():
        return
    axis = axis_of(layer, outputs=False)
    weight = layer.weight.index_select(axis, index[given])
    weight = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    shift = weight @ value[given] if axis else value[given] @ weight
    if layer.bias is None:
        wanted = layer.weight.requires_grad
        layer.bias = nn.Parameter(torch.zeros_like(shift), requires_grad=wanted)
    layer.bias += shift


def foldable(layer: Any, constants: Mapping[str, Constant], name: str) -> Tensor:
    """Return which inputs of a layer it can do without: (inputs,), bool."""
    axis = axis_of(layer, outputs=False)
    untaken = ~(layer.weight.detach() != 0).transpose(0, axis).flatten(1).any(1)
    if name not in constants:
        return untaken
    constant = constants[name]
    able = (constant.value == 0) | (not pads(layer))
    return untaken | (constant.known & able)
