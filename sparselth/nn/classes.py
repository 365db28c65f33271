"""The classes of masked modules: made from plain ones, and how a module changes to one.

A module that changes its class stays the same object.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from .owners import mask_name


def class_of(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module, without what torch.nn.utils.parametrize put over it."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give `module` the class `kind`, as torch's parametrize does; no copy, no state touched.

    A module with a parametrized bias, say, keeps that: its class lies over `kind` then.

    Methods of its class that somebody keeps on the module itself, as the hooks of accelerate keep
    `forward`, are those of the new class then.
    """
    before = type(module)
    for name, value in list(module.__dict__.items()):
        if isinstance(value, MethodType) and value.__self__ is module:
            called = value.__func__.__name__
            if getattr(before, called, None) is value.__func__ and hasattr(kind, called):
                module.__dict__[name] = MethodType(getattr(kind, called), module)
    if parametrize.is_parametrized(module):
        # The class parametrize made is the module's own, but for copies: those keep it as it was.
        kept = {k: v for k, v in before.__dict__.items() if k not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), kept)
    module.__class__ = kind


def masked_parameter(name: str) -> Any:
    """Return the property that a masked module has for a parameter.

    Read from outside it is the parameter, zero off its mask; where another tensor stands in its
    place (`torch.func.functional_call`, a program being compiled or exported), and within the
    module's own forward, its masked values, differentiably.
    """
    text = f"Return the parameter `{name}`, zero where its mask prunes it."
    return property(lambda module: module._read(name), doc=text)


def shown_mask(name: str) -> Any:
    """Return the property that a masked module has for the mask of a parameter."""
    text = f"Return the mask of `{name}`: bool, its shape, True keeps; write to it to change it."
    return property(lambda module: module._show(name), doc=text)


_made: dict[tuple[type, type], type[Any]] = {}


def masked_subclass(base: type[Any], plain: type[nn.Module]) -> type[Any]:
    """Return the masked class of a plain module's class: `base` mixed into it.

    Made once for each: what a subclass adds to a layer stays there.
    """
    if (base, plain) not in _made:
        attributes: dict[str, Any] = {
            "_made_by": base,
            "_made_for": plain,
            "_plain": plain,
            "__module__": base.__module__,
            "__doc__": f"`{plain.__name__}` with parameters on masks, made by `sparsify`.",
        }
        for name in base.maskable:
            attributes[name], attributes[mask_name(name)] = masked_parameter(name), shown_mask(name)
        _made[base, plain] = type(f"Masked{plain.__name__}", (base, plain), attributes)
    return _made[base, plain]


def remake(base: type[Any], plain: type[nn.Module]) -> Any:
    """Make an empty module of a class that `masked_subclass` made, as copies and files do."""
    kind: Any = masked_subclass(base, plain)
    return kind.__new__(kind)
