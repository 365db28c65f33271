"""Which ATen ops run on lanes, and what the others do with their arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

# Op overload -> what computes it on lanes, or returns NotImplemented to decline.
HANDLERS: dict[Any, Callable[..., Any]] = {}


# What a handler takes where it does not take everything, in words.
TAKES: dict[Any, str] = {}


def handles(
    *overloads: Any, takes: str = "some arguments"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that registers a handler for some overloads.

    takes: what it does not decline, for whoever asks why an activation left the lanes.
    """

    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        HANDLERS.update(dict.fromkeys(overloads, handler))
        TAKES.update(dict.fromkeys(overloads, takes))
        return handler

    return register


class Aliasing(NamedTuple):
    """Which arguments an op returns views of, or writes to: by place and by name."""

    shared: frozenset[int | str]
    written: frozenset[int | str]
    moves: bool  # changes the shape or strides of what it writes to
    composite: bool  # is made of other ops


@functools.cache
def aliasing_of(func: Any) -> Aliasing:
    """Return what an op shares with its arguments, by its schema."""
    shared: set[int | str] = set()
    written: set[int | str] = set()
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None:
            shared |= {place, argument.name}
            if argument.alias_info.is_write:
                written |= {place, argument.name}
    moves = torch.Tag.inplace_view in func.tags
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )
    return Aliasing(frozenset(shared), frozenset(written), moves, composite)
