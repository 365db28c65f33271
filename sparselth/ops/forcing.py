"""Which backend `use_backend` forces: one word that the chooser and the kernels' adapters read.

It belongs to the context, so that a thread or an asynchronous task which forces a backend does not
change what others compute. Threads start with none. torch.compile reads a ContextVar and guards on
its value: a function is compiled again where another backend is forced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_forced: ContextVar[str | None] = ContextVar("sparselth_forced_backend", default=None)


def forced() -> str | None:
    """Return the backend that `use_backend` asks for in this context, or None."""
    return _forced.get()


@contextmanager
def forcing(backend: str | None) -> Iterator[None]:
    """Force a backend, or none, in the `with` block."""
    previous = _forced.get()
    _forced.set(backend)
    try:
        yield
    finally:
        _forced.set(previous)  # not by a token: the block may be left in a copy of its context
