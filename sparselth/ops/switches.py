"""Which backend `use_backend` forces: one word that the chooser and the kernels' adapters read.

It belongs to the context, so that a thread or an asynchronous task which forces a backend does not
change what others compute. Threads start with none. A compiled program guards on it: a function is
compiled again where another backend is forced.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_forced: ContextVar[str | None] = ContextVar("sparselth_forced_backend", default=None)

# torch.compile reads a ContextVar from torch 2.14 on, and a thread's own variables before that. So
# in a compiled program of an older torch, asynchronous tasks of one thread see each other's.
_of_thread = threading.local()
_COMPILED_BY_THREAD = torch.torch_version.TorchVersion(torch.__version__) < "2.14"


def forced() -> str | None:
    """Return the backend that `use_backend` asks for in this context, or None."""
    if _COMPILED_BY_THREAD and torch.compiler.is_compiling():
        return getattr(_of_thread, "backend", None)
    return _forced.get()


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
