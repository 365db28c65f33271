"""A module that changes its class and stays the same object."""

from __future__ import annotations

from torch import nn


def become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give `module` the class `kind`, as torch's parametrize does; no copy, no state touched.

    Methods of its class that somebody keeps on the module itself, as the hooks of accelerate keep
    `forward`, are those of the new class then.
    """
    before = type(module)
    for name, value in list(module.__dict__.items()):
        method = getattr(value, "__func__", None)
        if method is None or getattr(value, "__self__", None) is not module:
            continue
        if getattr(before, method.__name__, None) is method and hasattr(kind, method.__name__):
            module.__dict__[name] = getattr(kind, method.__name__).__get__(module)
    module.__class__ = kind  # type: ignore[assignment]
