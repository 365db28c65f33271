"""Names that changed: the old ones stay for one version, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar

from .errors import SparselthError

F = TypeVar("F", bound=Callable[..., Any])


def renamed_names(namespace: Mapping[str, Any], names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that finds old names.

    namespace: the module's `globals()`.  names: old -> new.
    """
    module = namespace["__name__"]

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", f"{module}.{names[name]}")
        return namespace[names[name]]

    return find


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Let a function take arguments by their old names too: old="new"."""

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                if names[old] in kwargs:
                    raise SparselthError(
                        f"{function.__name__} got {names[old]!r} and its old name {old!r}; "
                        f"give {names[old]!r} alone"
                    )
                _warn(f"{function.__name__}({old}=...)", f"{function.__name__}({names[old]}=...)")
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def keyword_only(*names: str) -> Callable[[F], F]:
    """Let a function take keyword-only arguments by their old places too: in this order."""

    def decorate(function: F) -> F:
        kinds = [each.kind for each in signature(function).parameters.values()]
        places = sum(kind is Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
        called = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(args) > places:
                by_name = dict(zip(names, args[places:], strict=False))
                if len(args) - places > len(names) or by_name.keys() & kwargs.keys():
                    return function(*args, **kwargs)  # which says what is wrong
                shown = ", ".join(f"{name}=..." for name in by_name)
                first = places - function.__qualname__.endswith(".__init__")  # less self
                warnings.warn(
                    f"{called} takes keywords after the first {first}: {called}(..., {shown}); "
                    "places go with the next version",
                    DeprecationWarning,
                    stacklevel=2,
                )
                args, kwargs = args[:places], {**by_name, **kwargs}
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is called {new} now; the old name goes with the next version",
        DeprecationWarning,
        stacklevel=3,
    )
