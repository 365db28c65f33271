"""What a study has done elsewhere: calls that travel to another process, and how they end there."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...training import EpochRecord
from ..plan.cells import Cell
from ..plan.config import StudyConfig
from .compute import Work
from .environment import environment
from .timing import time_training

Job = Callable[[str], Any]


class CellError(Exception):
    """A job failed: in a sentence, and with the traceback where it happened."""

    def __init__(self, sentence: str, trace: str) -> None:
        super().__init__(sentence)
        self.trace = trace


@dataclass(frozen=True)
class Compute:
    """Compute a cell. `on_epoch_end` serves in this process only: it does not travel."""

    config: StudyConfig
    folder: Path
    cell: Cell
    on_epoch_end: Callable[[EpochRecord], None] | None = None

    def __call__(self, device: str) -> None:
        _work(self.config, self.folder, device).compute(self.cell, self.on_epoch_end)


@dataclass(frozen=True)
class TimeTraining:
    """Time sparse against dense training on the masks of a cell, and return a row."""

    config: StudyConfig
    folder: Path
    cell: Cell

    def __call__(self, device: str) -> dict[str, Any]:
        return time_training(_work(self.config, self.folder, device), self.cell)


@dataclass(frozen=True)
class Describe:
    """Describe the machine that jobs run on."""

    def __call__(self, device: str) -> dict[str, Any]:
        return environment(torch.device(device))


def attempt(job: Job, device: str) -> tuple[str, Any]:
    """Run a job; return ("done", its result) or ("error", (sentence, traceback))."""
    try:
        return "done", job(device)
    except Exception as error:
        sentence = str(error) or type(error).__name__
        return "error", (sentence, traceback.format_exc())


def outcome(kind: str, value: Any) -> Any:
    """Return the result that `attempt` described, or raise its `CellError`."""
    if kind == "error":
        raise CellError(*value)
    return value


# Data sets stay loaded from one cell to the next.
_last: tuple[tuple[StudyConfig, Path, str], Work] | None = None


def _work(config: StudyConfig, folder: Path, device: str) -> Work:
    global _last
    key = (config, folder, device)
    if _last is None or _last[0] != key:
        _last = key, Work(config, folder, torch.device(device))
    return _last[1]
