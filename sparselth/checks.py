"""Checks of plain arguments that all parts share: models, numbers, mappings, callables.

What is wrong is said at the boundary in one sentence, before it is another error elsewhere.
`ops/checks.py` has those of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import index
from typing import Any

import torch
from torch import nn

from .errors import SparselthError, unknown_name


def kind(value: object) -> str:
    """Say what a value is: its type with the module, which names are unlike in."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def check_model(model: Any) -> None:
    """Require a module, not its class or what makes one."""
    if isinstance(model, nn.Module):
        return
    if isinstance(model, type):
        got = f"the class {model.__name__}; pass an instance, {model.__name__}(...)"
    elif callable(model) and hasattr(model, "__name__"):
        got = f"the function {model.__name__}; pass the module that it makes"
    else:
        got = kind(model)
    raise SparselthError(f"model must be a torch.nn.Module, got {got}")


# What torch's layers raise for an input that does not fit. Their subclasses say something else: out
# of memory, a device that failed, an exception of the user's own.
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError)


def called(model: nn.Module, args: Sequence[Any], what: str, **kwargs: Any) -> Any:
    """Call a model, with words for an input that it cannot take.

    what: how errors call the input.
    """
    try:
        return model(*args, **kwargs)
    except _MISFITS as error:
        if type(error) not in _MISFITS:
            raise
        given = [*args, *kwargs.values()]
        tensors = [v for v in given if isinstance(v, torch.Tensor)]
        dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
        other = [t.dtype for t in tensors if t.is_floating_point() and t.dtype not in dtypes]
        advice = "pass what its first layer takes"
        if other and len(dtypes) == 1:
            weights = dtypes.pop()
            advice = f"its weights are {weights}: pass x.to({weights}), or model.to({other[0]})"
        shown = ", ".join(_told(v) for v in given) or "nothing"
        raise SparselthError(
            f"the model cannot be called with {what}, {shown} ({first_line(error)}); {advice}"
        ) from error


def _told(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return kind(value)


def check_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number within bounds; numpy's and tensors of one entry are such, too.

    least, most: the bounds themselves belong to it.  above, below: they do not.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes, bool)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError, AttributeError):
        number = math.nan
    # A NaN is in no interval.
    if not (math.isfinite(number) and least <= number <= most and above < number < below):
        raise SparselthError(
            f"{name} must be a finite number{_interval(least, most, above, below)}, got {value!r}"
        )
    return number


def _interval(least: float, most: float, above: float, below: float) -> str:
    low, high = max(least, above), min(most, below)
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high):
        return f" >= {low:g}" if least > above else f" > {low:g}"
    if math.isinf(low):
        return f" <= {high:g}" if most < below else f" < {high:g}"
    return f" in {'[' if least > above else '('}{low:g}, {high:g}{']' if most < below else ')'}"


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number within bounds, which belong to it; numpy's are such, too."""
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        wanted = f">= {least}" if most is None else f"in [{least}, {most}]"
        raise SparselthError(f"{name} must be a whole number {wanted}, got {value!r}")
    return number


def check_mapping(name: str, value: Any, of: str) -> None:
    """Require a mapping by names, which are texts.  of: what it holds, for the error."""
    if not isinstance(value, Mapping):
        raise SparselthError(f"{name} must be a mapping of {of}; got {kind(value)}")
    others = [key for key in value if not isinstance(key, str)]
    if others:
        raise SparselthError(
            f"{name} must be a mapping of {of}; got {others[0]!r} for a name, a {kind(others[0])}"
        )


def check_names(name: str, value: Any) -> list[str]:
    """Return names given as a list or another collection of texts, not as one text."""
    if isinstance(value, (str, bytes)):
        raise SparselthError(
            f"{name} takes a list of names, got the text {value!r}; pass [{value!r}]"
        )
    if not isinstance(value, Iterable):
        raise SparselthError(f"{name} takes a list of names, got {value!r}")
    found = list(value)
    if not all(isinstance(one, str) for one in found):
        raise SparselthError(f"{name} takes names, got {found!r}")
    return found


def check_name(what: str, value: Any, known: Collection[str]) -> None:
    """Require one of the names of a registry. what: how errors call them."""
    if not isinstance(value, str) or value not in known:
        raise unknown_name(what, value, known)


def check_callable(name: str, value: Any, takes: str) -> None:
    """Require something to be called. takes: what it is, for the error."""
    if not callable(value):
        raise SparselthError(f"{name} must be {takes}, got {value!r}")


def check_device(device: Any) -> torch.device:
    """Return a device that tensors can be put on here."""
    try:
        found = torch.device(device)
    except (TypeError, RuntimeError):
        raise SparselthError(
            f'device must be one that torch knows, such as "cpu" or "cuda", got {device!r}'
        ) from None
    if found.type == "meta":
        raise SparselthError('device="meta" holds no values; name one that does, such as "cpu"')
    try:
        torch.empty(0, device=found)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise SparselthError(
            f"device {str(found)!r} is not there, torch sees {torch.cuda.device_count()} GPUs "
            f'({first_line(error)}); use another, such as "cpu"'
        ) from error
    return found


def first_line(error: BaseException) -> str:
    """Return what an exception says, without what follows its first line."""
    return str(error).strip().split("\n")[0] or type(error).__name__
