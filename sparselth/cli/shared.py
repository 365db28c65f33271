"""What the commands share: texts, threads, warnings, lists of numbers."""

from __future__ import annotations

import sys
from typing import Any

import torch

from ..data import names as data_names
from ..errors import SparselthError
from ..models import names

MODELS = f"One of {', '.join(names())}."
_MOST_THREADS = 1024

DATA = f"One of {', '.join(data_names())}."


def show_warning(message: Any, *_: Any) -> None:
    """Print a warning as one sentence."""
    print(f"sparselth: warning: {message}.", file=sys.stderr)


def set_threads(threads: int) -> None:
    """Compute on so many threads; 0 leaves it to torch."""
    if not 0 <= threads <= _MOST_THREADS:
        raise SparselthError(f"--threads got {threads}; it must be in [0, {_MOST_THREADS}]")
    if threads:
        torch.set_num_threads(threads)


def numbers(flag: str, text: str) -> list[float]:
    """Read numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SparselthError(f"{flag} got {text!r}, expected numbers such as 0.9,0.95") from None
