"""Whether two models give the same: on the example, on random inputs, and with random weights.

That outputs agree on one batch may be luck: a channel may be dead there. With random weights where
the model has any, and random inputs, that they agree by luck is next to impossible.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .channels import Gone, axis_of, index_of, places_of
from .leaving import put_back
from .tensors import layer_of

T = TypeVar("T")

# Of the largest output, by the type computed in.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


def call(model: nn.Module, example: Any) -> Any:
    """Call a model with an example: a tensor, a tuple of arguments or a mapping of named ones."""
    positional, named = arguments_of(example)
    return model(*positional, **named)


def arguments_of(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the named arguments that an example of an input stands for."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return nested arguments with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: changed(one, change) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        several = [changed(one, change) for one in value]
        return type(value)(*several) if hasattr(value, "_fields") else type(value)(several)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested outputs."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)
    elif dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            yield from tensors_in(getattr(value, part.name))


def random_like(example: Any) -> Any:
    """Return random inputs of an example's shapes, within what it has: torch's RNG draws them."""

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.numel():
            return tensor
        if tensor.is_floating_point():
            spread = tensor.std(unbiased=False)
            noise = torch.randn_like(tensor) * torch.where(spread > 0, spread, 1)
            return noise + tensor.mean()
        if tensor.dtype == torch.bool or tensor.is_complex():
            return tensor
        low, high = int(tensor.min()), int(tensor.max())
        return torch.randint_like(tensor, low, high + 1)

    return changed(example, draw)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Draw from generators that begin alike each time, and leave torch's as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count()) if _on_gpu() else []):
        _seed()
        yield


def _on_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def _seed() -> None:
    """Begin alike each time; `torch.manual_seed` would reach into GPUs that are not in use yet."""
    torch.default_generator.manual_seed(0)
    if _on_gpu():
        torch.cuda.manual_seed_all(0)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients, and back."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        put_back(training)


@torch.no_grad()
def randomized(model: nn.Module, spared: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy with other weights where there are any; the magnitudes stay about the same.

    Each row and each column of a weight is scaled by a random factor of random sign. Biases, norms
    and what else is a vector stay: what they make of a channel that is nothing is to be the same.
    spared: weight name -> bool mask of its inputs that keep their weights: those that are
    constants, for the same reason.
    """
    other = copy.deepcopy(model)
    for name, weight in other.named_parameters():
        if weight.dim() < 2 or not weight.is_floating_point():
            continue
        for axis in (0, 1):
            weight.mul_(_factors(weight, axis))
        if name in spared and bool(spared[name].any()):
            axis = axis_of(layer_of(other, name), outputs=False)
            index = spared[name].nonzero().flatten()
            weight.index_copy_(axis, index, model.get_parameter(name).index_select(axis, index))
    return other


def _factors(weight: Tensor, axis: int) -> Tensor:
    shape = [1] * weight.dim()
    shape[axis] = weight.shape[axis]
    draw = torch.rand(shape, dtype=weight.dtype, device=weight.device) - 0.5
    return draw + draw.sign() * 0.75


@dataclasses.dataclass
class _Seen:
    """What a model gave. layers: name -> for each call, a number for each of its outputs."""

    outputs: list[Tensor]
    layers: dict[str, list[Tensor]]


class Probe:
    """A model to be compared with smaller ones, in double precision where it runs in that.

    Compared are the outputs and what each linear layer and convolution gives, for a deep model may
    leave nothing of a difference.
    example: an input as the model takes it.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        self.model, self.inputs = model, [example, random_like(example)]
        self._expected: list[_Seen] | None = None
        try:
            precise = copy.deepcopy(model).double()
            wide = [changed(one, _double) for one in self.inputs]
            self._expected = [_seen(precise, one) for one in wide]
        except Exception:  # whatever a model with a type of its own raises, or a device
            return
        self.model, self.inputs = precise, wide

    def of(self, model: nn.Module) -> Probe:
        """Return a probe of another model on the same inputs."""
        probe = copy.copy(self)
        probe.model, probe._expected = model, None
        return probe

    def same(self, small: nn.Module, gone: Gone) -> bool:
        """Say whether a model gives the same, but for channels; not where it cannot be run."""
        if self._expected is None:
            self._expected = [_seen(self.model, one) for one in self.inputs]
        away = places_of(gone)
        for one, expected in zip(self.inputs, self._expected, strict=True):
            try:
                found = _seen(small, one)
            except Exception:  # whatever layers raise whose sizes do not fit
                return False
            if not _same(expected, found, away):
                return False
        return True


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _seen(model: nn.Module, example: Any) -> _Seen:
    layers: dict[str, list[Tensor]] = {}

    def watch(name: str, axis: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            flat = output.movedim(axis, 0).flatten(1)
            mix = torch.arange(flat.shape[1], device=flat.device).mul(0.7).cos().to(flat.dtype)
            layers.setdefault(name, []).append(flat @ mix)

        return hook

    hooks = []
    for path, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
            name = f"{path}.weight" if path else "weight"
            hooks.append(layer.register_forward_hook(watch(name, axis)))
    try:
        with evaluating(model):
            _seed()  # for models that draw in evaluation mode, too
            return _Seen(list(tensors_in(call(model, example))), layers)
    finally:
        for hook in hooks:
            hook.remove()


def _same(expected: _Seen, found: _Seen, away: Mapping[tuple[str, bool], set[int]]) -> bool:
    if len(expected.outputs) != len(found.outputs) or expected.layers.keys() != found.layers.keys():
        return False
    pairs = list(zip(expected.outputs, found.outputs, strict=True))
    for name, given in expected.layers.items():
        places = away.get((name, True), set())
        kept = [[p for p in range(given[0].numel()) if p not in places]]
        index = index_of(kept, given[0].device)
        if len(given) != len(found.layers[name]):
            return False
        pairs += [(a[index], b) for a, b in zip(given, found.layers[name], strict=True)]
    return all(_close(a, b) for a, b in pairs)


def _close(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if not a.numel() or not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    tolerance = _TOLERANCE.get(a.dtype, 5e-2)
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def that_hold(items: Sequence[T], hold: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return those of some items that hold together, found by halves; few that do not are fast."""
    if not items or hold(items):
        return list(items)
    if len(items) == 1:
        return []
    half = len(items) // 2
    first, second = that_hold(items[:half], hold), that_hold(items[half:], hold)
    both = [*first, *second]
    if not first or not second or (len(both) < len(items) and hold(both)):
        return both
    return max(first, second, key=len)
