"""Which channels of a model go together: found by torch-pruning's graph, and tried.

torch-pruning is an extra (`pip install sparselth[compact]`). What its graph takes for channels that
can go is taken out of a copy with random weights: where that changes what others give, they stay.

Reference: Fang et al. 2023, "DepGraph", arXiv:2301.12900.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..checks import called, check_model, first_line
from ..errors import SparselthError
from ..nn import densify, masks_of
from .channels import BY_CHANNEL, Coupled, Places, cut, shared, silence
from .probes import (
    Probe,
    arguments_of,
    call,
    evaluating,
    own_randomness,
    randomized,
    tensors_in,
    that_hold,
)


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
    or a tuple of its arguments, or a mapping of named ones.

    Raises SparselthError where torch-pruning is not installed, or cannot follow the model, and for
    an example that it does not take.
    """
    check_model(model)
    require_torch_pruning()
    plain = dense_copy(model)
    with own_randomness():
        calls = _calls(plain, example)
        graph = _graph(copy.deepcopy(plain), example)
        names = dict(graph._module2name)
        context = _Context(
            names, calls, shared(dict(plain.named_parameters(remove_duplicate=False)))
        )
        kinds = (nn.modules.conv._ConvNd, nn.Linear)
        groups = [context.described(g) for g in graph.get_all_groups(root_module_types=kinds)]
        return _tried(plain, groups, example)


def dense_copy(model: nn.Module) -> nn.Module:
    """Return a plain copy of a model, in evaluation mode, with zeros where weights are pruned."""
    model = getattr(model, "_orig_mod", model)
    # What hooks of pruning and of norms of weights computed has a history, which copies refuse.
    computed = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    model = copy.deepcopy(model, {id(t): t.detach().clone() for t in computed}).eval()
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    for parameter in model.parameters():
        parameter.grad = None
    return densify(model) if masks_of(model) else model


def _calls(model: nn.Module, example: Any) -> Counter[str]:
    """Return how often a forward calls each module."""
    calls: Counter[str] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
        for name, module in model.named_modules()
    ]
    positional, named = arguments_of(example)
    try:
        with evaluating(model):
            called(model, positional, "the example", **named)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _graph(plain: nn.Module, example: Any) -> Any:
    """Return torch-pruning's graph of a model, which may be changed."""
    for parameter in plain.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters outside layers, which stay as they are
            return require_torch_pruning().DependencyGraph().build_dependency(
                plain, example, forward_fn=call, output_transform=_traceable, verbose=False
            )  # fmt: skip
    except Exception as error:  # whatever a graph of an arbitrary model raises
        raise SparselthError(
            f"torch-pruning cannot follow this model ({type(error).__name__}: "
            f"{first_line(error)}); leave it as it is, or compact the parts that it can follow"
        ) from error


def _traceable(outputs: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(outputs) if tensor.grad_fn is not None]


class _Context:
    """What is to be known of a model for describing groups of its channels."""

    def __init__(self, names: Mapping[Any, str], calls: Counter[str], several: set[str]) -> None:
        self.names, self.calls, self.several = names, calls, several

    def described(self, group: Any) -> Coupled:
        """Return one of torch-pruning's groups in our words."""
        fixed, count = "", len(group[0].idxs)
        producers: Places = {}
        hands_on: Places = {}
        consumers: Places = {}
        norms: Places = {}
        for item in group:
            module = item.dep.target.module
            if type(module).__name__ == "_OutputOp":
                fixed = fixed or "they are outputs of the model"
            if type(module).__module__.startswith("torch_pruning"):  # ops between layers
                continue
            places = _places(item, count)
            fixed = fixed or self._refusal(module, places)
            if places is None or module not in self.names:
                continue
            name = self.names[module]
            weight = f"{name}.weight" if name else "weight"
            makes = group._DG.is_out_channel_pruning_fn(item.dep.handler)
            if isinstance(module, nn.PReLU) and module.num_parameters == 1:
                continue
            if isinstance(module, BY_CHANNEL):
                norms[weight] = places
            elif getattr(module, "groups", 1) > 1:
                hands_on[weight] = places
            else:
                (producers if makes else consumers)[weight] = places
        if not producers:
            fixed = fixed or "no layer makes them: they are inputs of the model"
        if not consumers:
            fixed = fixed or "no layer takes them: they are outputs of the model"
        return Coupled(count, producers, hands_on, consumers, fixed, norms)

    def _refusal(self, module: Any, places: list[list[int]] | None) -> str:
        """Say why channels that a module has to do with cannot be removed; "" where they can."""
        if module not in self.names:
            return "a parameter outside a layer goes with them"
        name = self.names[module]
        if self.calls[name] != 1:
            return f"{name} is called {self.calls[name]} times"
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, *BY_CHANNEL)):
            return f"{name} is a {type(module).__name__}, which they are all part of"
        weight = f"{name}.weight" if name else "weight"
        if weight in self.several:
            return f"{weight} is also that of another layer"
        if not isinstance(module, BY_CHANNEL) and "weight" not in module._parameters:
            return f"{weight} is computed from other parameters"
        groups = getattr(module, "groups", 1)
        if groups > 1 and not groups == module.in_channels == module.out_channels:
            return f"{name} convolves them in {groups} groups"
        return "" if places else f"{name} does not have each of them as often as the others"


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
    return found if len({len(of) for of in found}) == 1 and found[0] else None


def _tried(plain: nn.Module, groups: Sequence[Coupled], example: Any) -> list[Coupled]:
    """Return the groups, those fixed whose channels change others when they leave."""
    probe = Probe(plain, example)
    randomly = randomized(probe.model, {})
    trials = {
        id(group): torch.randperm(group.count)[: (group.count + 1) // 2].tolist()
        for group in groups
        if not group.fixed and group.count > 1
    }

    def hold(some: Sequence[Coupled]) -> bool:
        gone = [(group, trials[id(group)]) for group in some]
        whole = copy.deepcopy(randomly)
        silence(whole, gone, made=False)
        small = copy.deepcopy(whole)
        try:
            cut(small, gone)
        except (RuntimeError, IndexError, AttributeError):  # a layer that is not what it seems
            return False
        return probe.of(whole).same(small, gone)

    able = that_hold([group for group in groups if id(group) in trials], hold)
    good = {id(group) for group in able}
    why = "without some of them the others would be changed"
    return [
        g if g.fixed or g.count == 1 or id(g) in good else replace(g, fixed=why) for g in groups
    ]
