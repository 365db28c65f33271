"""SIGTERM, as schedulers send it before they kill: noted, and acted on between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: Any) -> None:
        self.asked = True


@contextmanager
def interruptible(wanted: bool) -> Iterator[Interrupt]:
    """Note SIGTERM inside the block instead of dying of it; outside the main thread, do not.

    wanted: False leaves the signal as it is.
    """
    interrupt = Interrupt()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
