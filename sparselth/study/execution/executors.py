"""Where the jobs of a study run: in this process, or in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ...errors import SparselthError
from .jobs import Job, attempt, outcome
from .workers import Worker


class Running(Protocol):
    """A job that was submitted."""

    def finished(self) -> bool:
        """Say whether it has ended, one way or the other."""

    def result(self) -> Any:
        """Wait, and return its result or raise `CellError`."""


class Executor(Protocol):
    """slots: how many jobs run at once.  local: whether they run in this process.
    poll_seconds: how often to look for the end of one.
    """

    slots: int
    local: bool
    poll_seconds: float

    def submit(self, job: Job) -> Running:
        """Begin a job, or raise `CellError` where it cannot be begun."""

    def close(self) -> None:
        """Stop what is running."""


class InProcess:
    """Runs each job at once, in this process.

    device: "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises SparselthError for an unknown device, or a GPU that is not there.
    """

    slots, local, poll_seconds = 1, True, 0.0

    def __init__(self, device: str = "auto") -> None:
        self.device = checked_device(device)

    def submit(self, job: Job) -> Running:
        """Run `job` now, and return what has ended."""
        return _Ended(attempt(job, self.device))

    def close(self) -> None:
        """Do nothing: nothing runs between submissions."""


class _Ended:
    def __init__(self, answer: tuple[str, Any]) -> None:
        self.answer = answer

    def finished(self) -> bool:
        return True

    def result(self) -> Any:
        return outcome(*self.answer)


class Processes:
    """Runs jobs in `workers` processes; with GPUs, on one after the other in turn.

    workers: 0 is one per GPU.  device: "auto" (GPUs if there are any), "cpu" or "cuda".
    threads: of each process, 0 shares this one's evenly.

    Raises SparselthError for negative numbers, an unknown device, a GPU that is not there, or 0
    workers without one.
    """

    local, poll_seconds = False, 0.05

    def __init__(self, workers: int = 0, device: str = "auto", threads: int = 0) -> None:
        devices = _devices(device)
        if workers < 0 or threads < 0:
            raise SparselthError(
                f"got {workers} workers of {threads} threads; both must be at least 0"
            )
        if workers == 0 and devices == ["cpu"]:
            raise SparselthError(
                "there is no GPU to give each worker one; say how many processes are to share the "
                "CPU (workers, or --workers on the command line)"
            )
        self.slots = workers or len(devices)
        threads = threads or max(1, torch.get_num_threads() // self.slots)
        self.workers = [Worker(devices[i % len(devices)], threads) for i in range(self.slots)]
        self.idle = self.workers[::-1]

    def submit(self, job: Job) -> Running:
        """Begin `job` on a process that is idle; there must be one."""
        worker = self.idle.pop()  # the last one used, which has its data set loaded
        worker.submit(job)
        return _OnWorker(self, worker)

    def close(self) -> None:
        """Stop all processes, whatever they are doing."""
        for worker in self.workers:
            worker.stop()


class _OnWorker:
    def __init__(self, pool: Processes, worker: Worker) -> None:
        self.pool, self.worker = pool, worker

    def finished(self) -> bool:
        return self.worker.finished()

    def result(self) -> Any:
        try:
            return self.worker.result()
        finally:
            self.pool.idle.append(self.worker)


def checked_device(name: str) -> str:
    """Return a device's name; "auto" is a GPU if there is one.

    Raises `SparselthError` for an unknown one, or a GPU that is not there.
    """
    return _devices(name)[0]


def _devices(name: str) -> Sequence[str]:
    if name not in ("auto", "cpu", "cuda"):
        raise SparselthError(f"unknown device '{name}'; known: auto, cpu, cuda")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and not gpus:
        raise SparselthError(
            "the device cuda was asked for, but torch sees no GPU here; use --device cpu, or see "
            "'sparselth info'"
        )
    return [f"cuda:{i}" for i in range(gpus)] if gpus and name != "cpu" else ["cpu"]
