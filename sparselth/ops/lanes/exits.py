"""Where activations leave the lanes, for whoever wants to know: a conversion costs two passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Exit(NamedTuple):
    """An op that got plain values of an activation in lanes.

    op: its name, such as "aten.silu".  shape: of the activation, (N, C, H, W).  why: it was not
    computed on lanes.
    """

    op: str
    shape: tuple[int, ...]
    why: str


Listener = Callable[[Exit], None]

_listener: ContextVar[Listener | None] = ContextVar("sparselth_lane_exits", default=None)


def listener() -> Listener | None:
    """Return who wants to know, in this thread or task."""
    return _listener.get()


@contextmanager
def told_to(other: Listener | None) -> Iterator[None]:
    """Tell `other` of each exit within, or nobody."""
    token = _listener.set(other)
    try:
        yield
    finally:
        _listener.reset(token)
