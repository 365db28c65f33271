"""Physical compaction: dead filters and channels leave the model, which stays an ordinary one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .channels import Coupled, Gone, axis_of, cut, index_of, silence
from .constants import Constant, constant_inputs, fold, foldable
from .coupling import coupled_channels, dense_copy
from .leaving import put_back
from .probes import Probe, own_randomness, randomized, that_hold
from .tensors import layer_of

Dead = dict[str, list[int]]
"""The name of a group -> which of its channels are dead."""


def compact(model: nn.Module, example: Any) -> nn.Module:
    """Return a smaller dense model with the same outputs: dead filters and channels are gone.

    A channel leaves where nothing takes it (every weight that would is zero), or where no input
    changes it and what takes it can do without: it is zero, or another constant that goes into the
    biases of what follows, that is, of linear layers and of convolutions without padding.
    Channels that are added go together, and of each group one stays.
    A filter that is zero and has to stay is told by a warning, one in all: one whose batch norm
    shifts it away from zero, for one. Masks of pattern="coupled" have none of these.

    Outputs are those of evaluation mode, up to rounding. That they are the same is tried on the
    example and on random inputs, with the model's weights and with random ones.

    model: plain or sparse; it is left as it was.  example: an input as the model takes it: a
    tensor, a tuple of arguments, or a mapping of named ones.
    Returns a new model of ordinary modules, with fewer parameters of the same types, devices and
    `requires_grad`, each module in the mode of the model's; fine-tune it as any. Hooks stay with
    the model: neither the copies that are tried nor the new model call them, but what computes the
    weights of `weight_norm` and `spectral_norm`.

    Raises SparselthError where torch-pruning is not installed (`pip install sparselth[compact]`) or
    cannot follow the model, and for an example that it does not take.
    """
    groups = coupled_channels(getattr(model, "_orig_mod", model), example)
    whole = dense_copy(model)
    with own_randomness():
        probe = Probe(whole, example)
        able = that_hold([g for g in groups if not g.fixed], lambda some: _holds(probe, some))
        found = _dead_of(probe.model, able, probe.inputs)
        small = _without(whole, found, [example])
        told = _told(found, groups, constant_inputs(found.silent, probe.inputs))
    modes = {n: m.training for n, m in getattr(model, "_orig_mod", model).named_modules()}
    put_back({m: modes.get(n, model.training) for n, m in small.named_modules()})
    if told:
        shown = "; ".join(told[:6]) + (f"; and {len(told) - 6} more" if len(told) > 6 else "")
        warnings.warn(f"filters that are zero stay in the model: {shown}", stacklevel=2)
    return small


@dataclass(frozen=True)
class _Found:
    """What is dead.

    groups: those that were asked for.  rounds: the channels that can leave at once, those that only
    had to do with them, and so on.  left: the name of a group -> the channels that stay.
    silent: the model with zeros for what is to leave.
    """

    groups: Sequence[Coupled]
    rounds: list[Dead]
    left: dict[str, set[int]]
    silent: nn.Module

    def gone(self, rounds: Sequence[Dead]) -> Gone:
        """Return all channels that leave in some rounds."""
        return [(g, [c for dead in rounds for c in dead[g.name]]) for g in self.groups]


def _dead_of(model: nn.Module, groups: Sequence[Coupled], examples: list[Any]) -> _Found:
    """Return the channels that can leave; each group keeps one."""
    left = {group.name: set(range(group.count)) for group in groups}
    found = _Found(groups, [], left, copy.deepcopy(model))
    while True:
        constants = constant_inputs(found.silent, examples)
        dead: Dead = {}
        for group in groups:
            idle = _idle(found.silent, group, constants).nonzero().flatten().tolist()
            gone = sorted(left[group.name].intersection(idle))
            dead[group.name] = gone[1:] if len(gone) == len(left[group.name]) else gone
            left[group.name].difference_update(dead[group.name])
        if not any(dead.values()):
            return found
        found.rounds.append(dead)
        _take_out(found.silent, found, dead, constants)


def _holds(probe: Probe, groups: Sequence[Coupled]) -> bool:
    """Say whether the dead channels of some groups can go, with these weights and with others."""
    found = _dead_of(probe.model, groups, probe.inputs)
    gone = found.gone(found.rounds)
    if not found.rounds:
        return True
    constants = constant_inputs(probe.model, probe.inputs)
    other = randomized(probe.model, {name: one.known for name, one in constants.items()})
    try:
        return all(
            one.same(_without(one.model, found, probe.inputs), gone)
            for one in (probe, probe.of(other))
        )
    except (RuntimeError, IndexError, AttributeError):  # a layer that is not what it seems
        return False


def _idle(model: nn.Module, group: Coupled, constants: Mapping[str, Constant]) -> Tensor:
    """Return which channels of a group all that takes them can do without: (count,), bool."""
    idle = torch.ones(group.count, dtype=torch.bool)
    for name, places in group.consumers.items():
        able = foldable(layer_of(model, name), constants, name)
        idle &= able[torch.tensor(places, device=able.device)].all(1).cpu()
    return idle


def _take_out(
    model: nn.Module, found: _Found, dead: Dead, constants: Mapping[str, Constant]
) -> None:
    """Let nothing make or take dead channels; biases take over what they always give."""
    for group in found.groups:
        for name, places in group.consumers.items():
            if name in constants:
                layer = layer_of(model, name)
                index = index_of((places[c] for c in dead[group.name]), layer.weight.device)
                fold(layer, constants[name], index)
    silence(model, found.gone([dead]))


def _without(model: nn.Module, found: _Found, examples: list[Any]) -> nn.Module:
    """Return a copy without the channels that are dead."""
    small = copy.deepcopy(model)
    for dead in found.rounds:
        _take_out(small, found, dead, constant_inputs(small, examples))
    cut(small, found.gone(found.rounds))
    return small


_KINDS = (nn.Linear, nn.modules.conv._ConvNd)


def _told(found: _Found, groups: Sequence[Coupled], constants: Mapping[str, Constant]) -> list[str]:
    """Say which filters that are zero have to stay, and why."""
    known = {name: (group, of) for group in groups for name, of, made in group.roles() if made}
    told = []
    for path, layer in found.silent.named_modules():
        name = f"{path}.weight" if path else "weight"
        if not isinstance(layer, _KINDS) or layer._parameters.get("weight") is None:
            continue
        empty = ~(layer.weight != 0).transpose(0, axis_of(layer, True)).flatten(1).any(1)
        count, dead, why = int(empty.sum()), [], "it is not followed"
        if name in known:
            group, places = known[name]
            left = found.left.get(group.name, set())
            if left:
                channels = torch.tensor(sorted(left))
                dead = channels[empty.cpu()[torch.tensor(places)[channels]].all(1)].tolist()
                count = len(dead) if len(left) > 1 else 0
            why = group.fixed or (_why(found, group, dead, constants) if count else "")
        if count:
            told.append(f"{count} of {name} ({why})")
    return told


def _why(
    found: _Found, group: Coupled, dead: Sequence[int], constants: Mapping[str, Constant]
) -> str:
    if group.name not in found.left:
        return "without them the outputs would differ"
    for name, places in group.consumers.items():
        constant = constants.get(name)
        if constant is None or not constant.known.cpu()[torch.tensor(places)[dead]].all():
            return "what they are added to, or go along with, is not zero"
    return "what follows makes them another constant than zero, which it cannot lose"
