"""Physical compaction: dead filters and channels leave the model, which stays an ordinary one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import called, check_model
from .coupling import (
    Coupled,
    arguments_of,
    axis_of,
    coupled_channels,
    dense_copy,
    dependency_graph,
    evaluating,
    groups_of,
)


def compact(model: nn.Module, example: Any) -> nn.Module:
    """Return a smaller dense model with the same outputs: dead filters and channels are gone.

    A channel leaves where nothing takes it (every weight that would is zero), or where nothing
    makes it (every weight and bias that would is zero) and what norms and activations make of that
    is zero too, or a constant that the biases of what follows can take over, that is, of linear
    layers and of convolutions without padding. Channels that are added go together.
    What is dead and has to stay is told by a warning: a filter whose batch norm shifts it away from
    zero, for one. Masks of pattern="coupled" have none of these.

    model: plain or sparse; it is left as it was.  example: an input as the model takes it, a tensor
    or a tuple of arguments; the outputs are compared on it, in evaluation mode.
    Returns a new model of ordinary modules in evaluation mode of the model's device, whose
    parameters are fewer; fine-tune it as any.

    Raises SparselthError where torch-pruning is not installed (`pip install sparselth[compact]`) or
    cannot follow the model, and for an example that it does not take.
    """
    check_model(model)
    arguments = arguments_of(example)
    small = dense_copy(model)
    with evaluating(small):
        before = called(small, arguments, "the example")
    stay: dict[str, str] = {}
    while True:
        groups = coupled_channels(small, example)
        dead = _dead(small, groups, arguments, stay)
        if not any(dead.values()):
            break
        whole = _removed(small, dead, example, before, arguments)
        if whole is not None:
            small = whole
            continue
        # One of them is not what the graph takes it for: each by itself then.
        for name, places in dead.items():
            alone = _removed(small, {name: places}, example, before, arguments)
            if alone is None:
                stay[name] = "without them the outputs would differ"
            else:
                small = alone
                break
    _tell(small, coupled_channels(small, example), stay)
    for module in small.modules():
        module.training = model.training
    return small


def _dead(
    model: nn.Module, groups: Sequence[Coupled], arguments: tuple[Any, ...], stay: dict[str, str]
) -> dict[str, list[int]]:
    """Return the channels that can leave, by the name of their group; a group keeps one."""
    inputs = _constant_inputs(model, groups, arguments)
    found = {}
    for group in groups:
        if group.fixed or group.name in stay:
            continue
        gone = [
            c
            for c in range(group.count)
            if _is_untaken(model, group, c)
            or (_is_unmade(model, group, c) and _can_go(model, group, c, inputs))
        ]
        found[group.name] = gone[: group.count - 1] if len(gone) == group.count else gone
    return {name: gone for name, gone in found.items() if gone}


def _weights(model: nn.Module, places: Any, channel: int, outputs: bool) -> list[Tensor]:
    """Return all weights of a channel in the layers that make it, or take it."""
    found = []
    for name, of in places.items():
        weight = model.get_parameter(name).detach()
        layer = model.get_submodule(name.rpartition(".")[0])
        found.append(weight.index_select(axis_of(layer, outputs), _index(of[channel], weight)))
    return found


def _index(places: list[int], like: Tensor) -> Tensor:
    return torch.tensor(places, device=like.device)


def _is_untaken(model: nn.Module, group: Coupled, channel: int) -> bool:
    return not any(bool(w.any()) for w in _weights(model, group.consumers, channel, False))


def _is_unmade(model: nn.Module, group: Coupled, channel: int) -> bool:
    """Say whether every weight that makes a channel is zero, so that no input changes it."""
    return not any(bool(w.any()) for w in _weights(model, group.producers, channel, True))


def _constant_inputs(
    model: nn.Module, groups: Sequence[Coupled], arguments: tuple[Any, ...]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the least and the largest value of each input channel of all consumers, by weight."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []

    def watch(name: str, axis: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            flat = inputs[0].detach().movedim(axis, 0).flatten(1)
            low, high = flat.amin(1), flat.amax(1)
            if name in seen:
                low, high = torch.minimum(low, seen[name][0]), torch.maximum(high, seen[name][1])
            seen[name] = low, high

        return hook

    for name in {name for group in groups for name in group.consumers}:
        layer = model.get_submodule(name.rpartition(".")[0])
        axis = -1 if isinstance(layer, nn.Linear) else 1
        hooks.append(layer.register_forward_pre_hook(watch(name, axis)))
    try:
        with evaluating(model):
            model(*arguments)
    finally:
        for handle in hooks:
            handle.remove()
    return seen


def _can_go(
    model: nn.Module, group: Coupled, channel: int, inputs: dict[str, tuple[Tensor, Tensor]]
) -> bool:
    """Say whether what takes a constant channel can do without it."""
    for name, places in group.consumers.items():
        low, high = (part[_index(places[channel], part)] for part in inputs[name])
        if not torch.equal(low, high):
            return False
        if bool(low.any()) and not _folds(model.get_submodule(name.rpartition(".")[0])):
            return False
    return True


def _folds(layer: Any) -> bool:
    """Say whether a layer's bias can take over a constant input: at borders padding is none."""
    if isinstance(layer, nn.Linear):
        return layer.bias is not None
    padding = layer.padding
    none = padding == "valid" or (padding != "same" and not any(padding))
    return layer.bias is not None and none and not getattr(layer, "transposed", False)


@torch.no_grad()
def _removed(
    model: nn.Module,
    dead: dict[str, list[int]],
    example: Any,
    before: Any,
    arguments: tuple[Any, ...],
) -> nn.Module | None:
    """Return a copy without these channels; None where its outputs are others."""
    small = copy.deepcopy(model)
    _fold(small, dead, coupled_channels(small, example), arguments)
    graph = dependency_graph(small, example)
    names = {module: name for name, module in small.named_modules()}
    roots = []
    for group in groups_of(graph):
        item = group[0]
        name = names.get(item.dep.target.module)
        weight = None if name is None else (f"{name}.weight" if name else "weight")
        if weight in dead:
            roots.append((item.dep.target.module, item.dep.handler, dead[weight]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for module, handler, places in roots:
                graph.get_pruning_group(module, handler, places).prune()
        with evaluating(small):
            after = small(*arguments)
    except Exception:
        return None
    return small if _same(before, after) else None


def _fold(
    model: nn.Module,
    dead: dict[str, list[int]],
    groups: Sequence[Coupled],
    arguments: tuple[Any, ...],
) -> None:
    """Let the biases of what follows take over what dead channels give."""
    inputs = _constant_inputs(model, groups, arguments)
    for group in groups:
        for channel in dead.get(group.name, []):
            for name, places in group.consumers.items():
                layer: Any = model.get_submodule(name.rpartition(".")[0])
                index = _index(places[channel], layer.weight)
                weight = layer.weight.detach().index_select(axis_of(layer, False), index)
                value = inputs[name][0][index]
                if bool(weight.any()) and bool(value.any()):
                    taps = weight.reshape(*weight.shape[:2], -1).sum(2)
                    layer.bias += taps @ value
                    layer.weight.data.index_fill_(axis_of(layer, False), index, 0.0)


def _same(before: Any, after: Any) -> bool:
    """Say whether outputs are the same up to rounding."""
    if isinstance(before, Tensor):
        if not isinstance(after, Tensor) or before.shape != after.shape:
            return False
        scale = float(before.abs().amax()) if before.numel() else 0.0
        return torch.allclose(before, after, rtol=1e-3, atol=1e-4 * max(scale, 1e-6))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_same(before[k], after[k]) for k in before)
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_same, before, after))
    return True


def _tell(model: nn.Module, groups: Sequence[Coupled], stay: dict[str, str]) -> None:
    """Warn of dead filters that had to stay, with the reason."""
    told = []
    for group in groups:
        if not group.producers:
            continue
        dead = sum(_is_unmade(model, group, c) for c in range(group.count))
        if dead == group.count or not dead:
            continue
        why = group.fixed or stay.get(group.name)
        why = why or "what follows makes them another constant than zero, which it cannot lose"
        told.append(f"{dead} of {', '.join(group.producers)} ({why})")
    if told:
        shown = "; ".join(told[:6]) + (f"; and {len(told) - 6} more" if len(told) > 6 else "")
        warnings.warn(f"filters that are zero stay in the model: {shown}", stacklevel=3)
