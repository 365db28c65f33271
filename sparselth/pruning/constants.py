"""What of a model's inner values no input changes: all inputs are NaN, and what is not stays known.

A NaN goes through whatever torch computes, with two exceptions that matter here: a weight of zero
takes nothing, and a batch norm's scale of zero gives its shift. Values that are not NaN are thus
constants of the model, not only zero on some batch by luck.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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

    examples: inputs as the model takes them; what is known is alike in all of them, so that whole
    numbers, which cannot be NaN, count as known only by what does not depend on them.
    Returns weight name -> constants; nothing where the model does not run on NaN.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    if all(tensor.is_floating_point() for tensor in tensors_in(examples)):
        examples = examples[:1]  # all of them are NaN alike
    with evaluating(model), _following(model, seen):
        try:
            for example in examples:
                call(model, changed(example, _unknown))
        except Exception:  # whatever an arbitrary model raises for NaN: then nothing is known
            return {}
    return {
        name: Constant((low == high) & low.isfinite(), low) for name, (low, high) in seen.items()
    }


def _unknown(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor


@contextmanager
def _following(model: nn.Module, seen: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Let layers stop what is unknown at weights of zero, and keep what comes to them."""
    hooks = []
    for name, module in model.named_modules():
        if is_plain(module, _LAYERS):
            weight = f"{name}.weight" if name else "weight"
            hooks.append(module.register_forward_hook(_layer_hook(weight, seen)))
        elif is_plain(module, _NORMS):
            hooks.append(module.register_forward_hook(_norm_hook))
        elif isinstance(module, _LOOK_UPS):
            hooks.append(module.register_forward_hook(lambda m, inputs, y: _unknown(y)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def is_plain(module: nn.Module, kinds: tuple[Any, ...]) -> bool:
    """Say whether a module computes what one of torch's kinds of layers does with its weight."""
    own = module._parameters.get("weight") is not None
    return own and any(
        isinstance(module, kind)
        and type(module).forward is kind.forward
        and getattr(type(module), "_conv_forward", None) is getattr(kind, "_conv_forward", None)
        for kind in kinds
    )


def _layer_hook(weight: str, seen: dict[str, tuple[Tensor, Tensor]]) -> Any:
    def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if len(inputs) != 1:  # an output size given: what is unknown goes everywhere
            return output
        (x,) = inputs
        axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
        flat = x.detach().movedim(axis, 0).flatten(1)
        low, high = flat.amin(1), flat.amax(1)
        if weight in seen:  # minima and maxima of NaN are NaN
            low, high = torch.minimum(low, seen[weight][0]), torch.maximum(high, seen[weight][1])
        seen[weight] = low, high
        # At the borders a constant and the zeros of a padding mix, so that it is none any more.
        lost = flat.isnan().any(1) | ((flat != 0).any(1) if pads(layer) else False)
        known = layer.forward(torch.where(x.isnan(), 0, x))
        shape = [1] * known.dim()
        shape[axis] = -1
        return torch.where(_reached(layer, lost).view(shape), torch.nan, known)

    return hook


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


def _norm_hook(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    shape = [1, -1, *[1] * (output.dim() - 2)]
    shift = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    return torch.where(norm.weight.view(shape) == 0, shift.view(shape), output)


@torch.no_grad()
def fold(layer: Any, constant: Constant, index: Tensor) -> None:
    """Let a layer's bias take over, in place, what some of its inputs always give.

    index: (count,), int64: which inputs; their weights are zero afterwards. A layer without a bias
    gets one where that is anything.
    """
    axis = axis_of(layer, outputs=False)
    weight = layer.weight.index_select(axis, index)
    given = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    value = torch.where(constant.value.isfinite(), constant.value, 0)[index]
    shift = given @ value if axis else value @ given
    if bool(shift.any()):
        if layer.bias is None:
            wanted = layer.weight.requires_grad
            layer.bias = nn.Parameter(torch.zeros_like(shift), requires_grad=wanted)
        layer.bias += shift
    layer.weight.index_fill_(axis, index, 0)


def foldable(layer: Any, constants: Mapping[str, Constant], name: str) -> Tensor:
    """Return which inputs of a layer it can do without: (inputs,), bool."""
    axis = axis_of(layer, outputs=False)
    untaken = ~(layer.weight.detach() != 0).transpose(0, axis).flatten(1).any(1)
    if name not in constants:
        return untaken
    constant = constants[name]
    able = (constant.value == 0) | (not pads(layer))
    return untaken | (constant.known & able)
