"""Which backend `use_backend` forces: one word that the chooser and the kernels' adapters read."""

from __future__ import annotations

# A plain module global, so that torch.compile can guard on it.
_forced: str | None = None


def forced() -> str | None:
    """Return the backend that `use_backend` asks for, or None."""
    return _forced


def force(backend: str | None) -> str | None:
    """Force a backend, or none; returns the one before."""
    global _forced
    previous, _forced = _forced, backend
    return previous
