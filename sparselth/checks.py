"""Checks of plain arguments that all parts share: models, numbers, mappings, callables.

What is wrong is said at the boundary in one sentence, before it is another error elsewhere.
`ops/checks.py` has those of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from operator import index
from typing import Any

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
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    # A NaN is in no interval.
    if not (math.isfinite(number) and least <= number <= most and above < number < below):
        bounds = {">= ": least, "<= ": most, "> ": above, "< ": below}
        wanted = [sign + f"{bound:g}" for sign, bound in bounds.items() if math.isfinite(bound)]
        raise SparselthError(
            f"{name} must be a number{' ' * bool(wanted)}{' and '.join(wanted)}, got {value!r}"
        )
    return number


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


def check_name(what: str, value: Any, known: Collection[str]) -> None:
    """Require one of the names of a registry. what: how errors call them."""
    if not isinstance(value, str) or value not in known:
        raise unknown_name(what, value, known)


def check_callable(name: str, value: Any, takes: str) -> None:
    """Require something to be called. takes: what it is, for the error."""
    if not callable(value):
        raise SparselthError(f"{name} must be {takes}, got {value!r}")
