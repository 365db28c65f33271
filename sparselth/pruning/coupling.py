"""Which channels of a model go together: found by torch-pruning's graph, and tried.

What the graph takes for channels that can go is taken out of a copy with random weights: where that
changes what others give, they stay.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..checks import called, check_model
from ..nn import densify, masks_of
from .channels import BY_CHANNEL, Coupled, Places, axis_of, cut, shared, silence
from .dependencies import Visit, Walk, require_torch_pruning, walks
from .probes import (
    Probe,
    arguments_of,
    evaluating,
    own_randomness,
    randomized,
    that_hold,
)
from .tensors import check_values


def coupled_channels(model: nn.Module, example: Any) -> list[Coupled]:
    """Return the groups of channels of a model that can only be removed together.

    model: plain or sparse; it is left as it was.  example: an input as the model takes it, a tensor
    or a tuple of its arguments, or a mapping of named ones.

    Raises SparselthError where torch-pruning is not installed, or cannot follow the model, for an
    example that it does not take, and for a model on the meta device.
    """
    check_model(model)
    require_torch_pruning()
    check_values(dict(model.named_parameters()) | dict(model.named_buffers()))
    plain = dense_copy(model)
    with own_randomness():
        calls = _calls(plain, example)
        several = shared(dict(plain.named_parameters(remove_duplicate=False)))
        follower = copy.deepcopy(plain)
        context = _Context({m: name for name, m in follower.named_modules()}, calls, several)
        groups = [context.described(walk) for walk in walks(follower, example)]
        tried = _tried(plain, groups, example)
    # What torch.compile wraps has its names; the copies here are of what it wraps.
    return tried if not hasattr(model, "_orig_mod") else [_renamed(one) for one in tried]


def _renamed(group: Coupled) -> Coupled:
    roles = (group.producers, group.hands_on, group.consumers, group.norms)
    makes, hands_on, takes, norms = ({f"_orig_mod.{n}": p for n, p in of.items()} for of in roles)
    return Coupled(group.count, makes, hands_on, takes, group.fixed, norms)


def dense_copy(model: nn.Module) -> nn.Module:
    """Return a plain copy of a model, in evaluation mode, with zeros where weights are pruned.

    Without hooks, which were not set for the many runs of a copy; but those before the forward of a
    layer whose weight is computed.
    """
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
        _drop_hooks(module)
    for parameter in model.parameters():
        parameter.grad = None
    return densify(model) if masks_of(model) else model


def _drop_hooks(module: nn.Module) -> None:
    """Take a module's hooks off; what is a tensor and no parameter a hook before may compute."""
    kinds = ["_forward_hooks", "_backward_hooks", "_backward_pre_hooks"]
    if not any(isinstance(value, Tensor) for value in vars(module).values()):
        kinds.append("_forward_pre_hooks")
    for name in kinds:
        getattr(module, name).clear()


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


class _Context:
    """What is to be known of a model for describing groups of its channels."""

    def __init__(self, names: Mapping[Any, str], calls: Counter[str], several: set[str]) -> None:
        self.names, self.calls, self.several = names, calls, several

    def described(self, walk: Walk) -> Coupled:
        """Return the channels of a walk, and why they cannot be removed where they cannot."""
        fixed = "several of them come to one place" if walk.mixed else ""
        fixed = "torch-pruning cannot follow them" if walk.lost else fixed
        roles: dict[str, Places] = {k: {} for k in ("makes", "hands on", "takes", "norms")}
        for visit in walk.visits:
            module = visit.module
            if type(module).__name__ == "_OutputOp":
                fixed = fixed or "they are outputs of the model"
            if type(module).__module__.startswith("torch_pruning"):  # ops between layers
                continue
            places = _places(visit, walk.count)
            fixed = fixed or self._refusal(visit, places)
            if places is None or module not in self.names:
                continue
            if isinstance(module, nn.PReLU) and module.num_parameters == 1:
                continue
            roles[_role(visit)][self._weight(module)] = places
        if not roles["makes"]:
            fixed = fixed or "no layer makes them: they are inputs of the model"
        if not roles["takes"]:
            fixed = fixed or "no layer takes them: they are outputs of the model"
        makes, hands_on, takes, norms = roles.values()
        return Coupled(walk.count, makes, hands_on, takes, fixed, norms)

    def _weight(self, module: Any) -> str:
        name = self.names[module]
        return f"{name}.weight" if name else "weight"

    def _refusal(self, visit: Visit, places: list[list[int]] | None) -> str:
        """Say why channels that a module has to do with cannot be removed; "" where they can."""
        module = visit.module
        if module not in self.names:
            return "a parameter outside a layer goes with them"
        name, weight = self.names[module], self._weight(module)
        if self.calls[name] != 1:
            return f"{name} is called {self.calls[name]} times"
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, *BY_CHANNEL)):
            return f"{name} is a {type(module).__name__}, which they are all part of"
        if weight in self.several:
            return f"{weight} is also that of another layer"
        if not isinstance(module, BY_CHANNEL) and "weight" not in module._parameters:
            return f"{weight} is computed from other parameters"
        groups = getattr(module, "groups", 1)
        if groups > 1 and not groups == module.in_channels == module.out_channels:
            return f"{name} convolves them in {groups} groups"
        if places is None:
            return f"{name} does not have each of them as often as the others"
        return ""


def _role(visit: Visit) -> str:
    if isinstance(visit.module, BY_CHANNEL):
        return "norms"
    if getattr(visit.module, "groups", 1) > 1:
        return "hands on"
    return "makes" if visit.makes else "takes"


def _size(visit: Visit) -> float:
    """Return how many places a layer has for channels."""
    weight = getattr(visit.module, "_parameters", {}).get("weight")
    if weight is None or (isinstance(visit.module, nn.PReLU) and weight.numel() == 1):
        return math.inf
    layer = isinstance(visit.module, (nn.Linear, nn.modules.conv._ConvNd))
    return int(weight.shape[axis_of(visit.module, visit.makes) if layer else -1])


def _places(visit: Visit, count: int) -> list[list[int]] | None:
    """Return which places of a layer each channel is; None where some have more than others."""
    found: list[list[int]] = [[] for _ in range(count)]
    for place, channel in visit.channels.items():
        found[channel].append(place)
    if max(visit.channels) >= _size(visit):
        return None
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
