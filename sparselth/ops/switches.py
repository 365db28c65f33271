"""What is switched for a whole program: which backend is forced, and how sparse or dense is chosen.

They belong to the context, so that a thread or an asynchronous task which sets one does not change
what others compute. Threads start with the defaults. A compiled program guards on the backend: a
function is compiled again where another one is forced.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..environment import setting

_forced: ContextVar[str | None] = ContextVar("sparselth_forced_backend", default=None)

_DEFAULT_MODE = next(iter(setting("SPARSELTH_CHOICE")), "measured")
_mode: ContextVar[str] = ContextVar("sparselth_choice", default=_DEFAULT_MODE)

# torch.compile reads a ContextVar from torch 2.14 on, and a thread's own variables before that. So
# in a compiled program of an older torch, asynchronous tasks of one thread see each other's.
_of_thread = threading.local()
_COMPILED_BY_THREAD = torch.torch_version.TorchVersion(torch.__version__) < "2.14"


def forced() -> str | None:
    """Return the backend that `use_backend` asks for in this context, or None."""
    if _COMPILED_BY_THREAD and torch.compiler.is_compiling():
        return getattr(_of_thread, "backend", None)
    return _forced.get()


def mode() -> str:
    """Return how `use_choice` has choices made in this context: see there."""
    return _mode.get()


def settings() -> tuple[str | None, str]:
    """Return all of them, outside of compiled programs: what is decided now holds for these."""
    return (_forced.get(), _mode.get())


@contextmanager
def forcing(backend: str | None) -> Iterator[None]:
    """Force a backend, or none, in the `with` block."""
    previous = _forced.get()
    _set(backend)
    try:
        yield
    finally:
        _set(previous)  # not by a token: the block may be left in a copy of its context


def _set(backend: str | None) -> None:
    _forced.set(backend)
    _of_thread.backend = backend


@contextmanager
def choosing(name: str) -> Iterator[None]:
    """Choose by a mode in the `with` block."""
    previous = _mode.get()
    _mode.set(name)
    try:
        yield
    finally:
        _mode.set(previous)
