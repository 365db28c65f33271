"""Which layers channels come to, by torch-pruning's graph of a model: an extra of the package.

Reference: Fang et al. 2023, "DepGraph", arXiv:2301.12900.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checks import first_line
from ..errors import SparselthError
from .probes import call, tensors_in


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


class _Index(NamedTuple):
    """A place in a layer, and which of the channels it is, by the names that the graph reads."""

    idx: int
    root_idx: int


@dataclass
class Visit:
    """A module that channels come to.

    makes: whether its outputs are meant, rather than its inputs.  channels: place -> channel.
    """

    module: Any
    makes: bool
    channels: dict[int, int] = field(default_factory=dict)


@dataclass
class Walk:
    """All that the outputs of a layer come to.

    count: of the outputs.  mixed: whether several of them come to one place, so that none can go
    by itself.  lost: whether they come to something that torch-pruning cannot follow.
    """

    count: int
    visits: list[Visit]
    mixed: bool = False
    lost: bool = False


def walks(model: nn.Module, example: Any) -> Iterator[Walk]:
    """Yield where the outputs of convolutions and linear layers come to, each layer in one walk.

    model: which may be changed.  example: an input as the model takes it.

    Raises SparselthError where torch-pruning is not installed, or cannot follow the model.
    """
    graph = _graph(model, example)
    most = max((max(p.shape, default=1) for p in model.parameters()), default=1)
    visited: set[int] = set()
    for module in list(graph.module2node):
        if not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or id(module) in visited:
            continue
        walk = _walked(graph, module, most)
        visited |= {id(visit.module) for visit in walk.visits if visit.makes}
        yield walk


def _graph(model: nn.Module, example: Any) -> Any:
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters outside layers, which stay as they are
            return require_torch_pruning().DependencyGraph().build_dependency(
                model, example, forward_fn=call, output_transform=_traceable, verbose=False
            )  # fmt: skip
    except Exception as error:  # whatever a graph of an arbitrary model raises
        raise SparselthError(
            f"torch-pruning cannot follow this model ({type(error).__name__}: "
            f"{first_line(error)}); compact the parts that it can follow, one at a time"
        ) from error


def _traceable(outputs: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(outputs) if tensor.grad_fn is not None]


def _walked(graph: Any, module: Any, most: int) -> Walk:
    """Follow the outputs of a layer. most: no layer has more places, so that circles end."""
    prune = graph.get_pruner_of_module(module).prune_out_channels
    walk = Walk(graph.get_out_channels(module), [])
    found: dict[tuple[int, Any], Visit] = {}
    todo = [(graph.module2node[module], prune, [_Index(i, i) for i in range(walk.count)])]
    while todo:
        node, handler, places = todo.pop()
        visit = found.get((id(node), handler))
        if visit is None:
            visit = Visit(node.module, graph.is_out_channel_pruning_fn(handler))
            found[id(node), handler] = visit
            walk.visits.append(visit)
        new = [place for place in places if place.idx not in visit.channels]
        for place in places:
            channel = visit.channels.setdefault(place.idx, place.root_idx)
            if channel is None or channel != place.root_idx or not 0 <= place.idx < most:
                walk.mixed = True
                return walk
        try:
            todo += [step for step in _steps(node, handler, new) if step[2]]
        except Exception:  # its mappings of places, of a GRU's gates for one
            walk.lost = True
            return walk
    return walk


def _steps(node: Any, handler: Any, places: list[_Index]) -> Iterator[tuple[Any, Any, list[Any]]]:
    """Yield where places of a node come to: the next node, what it does there, and which places."""
    for dependency in node.dependencies:
        if dependency.is_triggered_by(handler):
            there: list[Any] = places
            for mapping in dependency.index_mapping:
                there = there if mapping is None else mapping(there)
            yield dependency.target, dependency.handler, there
