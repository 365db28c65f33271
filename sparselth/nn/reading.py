"""What masked modules have read of their own parameters while they compute."""

from __future__ import annotations

import threading

from torch import Tensor

_of_thread = threading.local()


def forwards() -> dict[int, dict[str, Tensor]]:
    """Return what the modules whose forward runs in this thread have read: by their id."""
    return _of_thread.__dict__.setdefault("forwards", {})
