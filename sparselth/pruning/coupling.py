"""Channels that go together: what one channel of a layer's output is elsewhere in a model.

The dependencies are those of torch-pruning's graph, an extra (`pip install sparselth[compact]`).

Reference: Fang et al. 2023, "DepGraph", arXiv:2301.12900.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_model, first_line
from ..errors import SparselthError
from ..nn import densify, masks_of

Places = dict[str, list[list[int]]]
"""Parameter name -> for each channel, which places along an axis of the parameter it is."""


@dataclass(frozen=True)
class Coupled:
    """The channels of one layer's output, or of several that are added, which only go together.

    count: of channels.
    producers: the weights whose outputs they are.  hands_on: those of depthwise convolutions
    between.  consumers: the weights whose inputs they are.
    fixed: why they cannot be removed; empty when they can.
    """

    count: int
    producers: Places
    hands_on: Places
    consumers: Places
    fixed: str = ""

    @property
    def name(self) -> str:
        """The first weight that makes them."""
        return next(iter(self.producers))


def require_torch_pruning() -> Any:
    """Import torch-pruning.

    Raises SparselthError where it is not installed, saying how.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise SparselthError(
            "which channels go together is found by torch-pruning, which is not installed; "
            "pip install 'sparselth[compact]'"
        ) from error
    return torch_pruning


def coupled_channels(model: nn.Module, example: Any) -> list[Coupled]:
    """Return the groups of channels of a model that can only be removed together.

    model: plain or sparse; it is left as it was.  example: an input as the model takes it, a tensor
    or a tuple of its arguments.

    Raises SparselthError where torch-pruning is not installed, or cannot follow the model.
    """
    check_model(model)
    plain = dense_copy(model)
    names = {module: name for name, module in plain.named_modules()}
    return [_described(group, names) for group in groups_of(dependency_graph(plain, example))]


def dense_copy(model: nn.Module) -> nn.Module:
    """Return a plain copy of a model, in evaluation mode, with zeros where weights are pruned."""
    model = copy.deepcopy(getattr(model, "_orig_mod", model)).eval()
    return densify(model) if masks_of(model) else model


def dependency_graph(plain: nn.Module, example: Any) -> Any:
    """Return torch-pruning's graph of a plain model, which it may be pruned by.

    Raises SparselthError where it cannot follow the model.
    """
    graph = require_torch_pruning().DependencyGraph()
    wanted = {p: p.requires_grad for p in plain.parameters()}
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters outside layers, which stay as they are
            for parameter in wanted:
                parameter.requires_grad_(parameter.is_floating_point())
            return graph.build_dependency(plain, arguments_of(example), verbose=False)
    except Exception as error:  # whatever a graph of an arbitrary model raises
        raise SparselthError(
            f"torch-pruning cannot follow this model ({type(error).__name__}: "
            f"{first_line(error)}); pass an example that its forward takes"
        ) from error
    finally:
        for parameter, was in wanted.items():
            parameter.requires_grad_(was)


def arguments_of(example: Any) -> tuple[Any, ...]:
    """Return the arguments that an example of an input stands for."""
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)


def groups_of(graph: Any) -> Iterator[Any]:
    """Yield torch-pruning's groups of all convolutions and linear layers."""
    tp = require_torch_pruning()
    kinds = (tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR)
    yield from graph.get_all_groups(root_module_types=list(kinds))


# What has a value per channel and treats each by itself: removing one changes no other.
_BY_CHANNEL = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)


def _described(group: Any, names: Mapping[Any, str]) -> Coupled:
    graph, fixed = group._DG, ""
    count = len(group[0].idxs)
    producers: Places = {}
    hands_on: Places = {}
    consumers: Places = {}
    for item in group:
        module = item.dep.target.module
        if type(module).__module__.startswith("torch_pruning"):  # ops between layers
            if type(module).__name__ == "_OutputOp":
                fixed = fixed or "they are outputs of the model"
            continue
        if module not in names:
            fixed = fixed or "a parameter outside a layer goes with them"
            continue
        name = names[module]
        if isinstance(module, _BY_CHANNEL):
            continue
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            fixed = fixed or f"{name} is a {type(module).__name__}, which they are all part of"
            continue
        places = _places(item, count)
        if places is None:
            fixed = fixed or f"{name} does not have each of them as often as the others"
            continue
        weight = f"{name}.weight" if name else "weight"
        grouped = getattr(module, "groups", 1)
        if grouped > 1 and grouped == module.out_channels == module.in_channels:
            hands_on[weight] = places
        elif grouped > 1:
            fixed = fixed or f"{name} convolves them in {grouped} groups"
        elif graph.is_out_channel_pruning_fn(item.dep.handler):
            producers[weight] = places
        else:
            consumers[weight] = places
    if not consumers:
        fixed = fixed or "no layer takes them: they are outputs of the model"
    return Coupled(count, producers, hands_on, consumers, fixed)


def _places(item: Any, count: int) -> list[list[int]] | None:
    """Return which places of a layer each channel of the root is; None where they do not divide."""
    roots = item.root_idxs
    found: list[list[int]] = [[] for _ in range(count)]
    if roots is None or len(roots) != len(item.idxs) or any(root is None for root in roots):
        return None
    for place, root in zip(item.idxs, roots, strict=True):
        if not 0 <= root < count:
            return None
        found[root].append(place)
    return found if all(found) else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients, and back."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, was in training.items():
            module.training = was


def slices(weight: Tensor, axis: int, places: list[int]) -> Tensor:
    """Return what of a weight is at some places of an axis: 0 its outputs, 1 its inputs."""
    return weight.index_select(axis, torch.tensor(places, device=weight.device))


def axis_of(module: nn.Module, outputs: bool) -> int:
    """Return the axis of a layer's weight along which its outputs, or its inputs, are."""
    return int(outputs == bool(getattr(module, "transposed", False)))
