"""Where the jobs of a study run: in this process, in several, or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import SparselthError
from .jobs import CellError, Job, attempt, outcome
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

    def submit(self, job: Job) -> Running: ...

    def close(self) -> None:
        """Stop what is running."""


class InProcess:
    """Runs each job at once, in this process."""

    slots, local, poll_seconds = 1, True, 0.0

    def __init__(self, device: str = "auto") -> None:
        self.device = checked_device(device)

    def submit(self, job: Job) -> Running:
        return _Ended(attempt(job, self.device))

    def close(self) -> None:
        pass


class _Ended:
    def __init__(self, answer: tuple[str, Any]) -> None:
        self.answer = answer

    def finished(self) -> bool:
        return True

    def result(self) -> Any:
        return outcome(*self.answer)


class Processes:
    """Runs jobs in `workers` processes; with GPUs, on one after the other in turn.

    workers: 0 is one per GPU.  threads: of each process, 0 shares this one's evenly.
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
        self.idle = list(self.workers)

    def submit(self, job: Job) -> Running:
        worker = self.idle.pop(0)
        worker.submit(job)
        return _OnWorker(self, worker)

    def close(self) -> None:
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


class Submitit:
    """Runs each job as one of a cluster, through submitit.

    cluster: "slurm", or "local" for processes of this machine.  jobs: how many are in the queue at
    once.  options: of submitit, such as {"slurm_partition": "gpu", "timeout_min": 600,
    "gpus_per_node": 1}.  device: as the job sees it.  folder: of its logs, seen by all machines.

    Raises `SparselthError` when submitit is not installed, or does not know cluster or options.
    """

    local, poll_seconds = False, 1.0

    def __init__(
        self,
        folder: str | Path,
        cluster: str = "slurm",
        jobs: int = 16,
        options: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise SparselthError(
                "a cluster is reached through submitit, which is not installed; run: "
                "pip install 'sparselth[cluster]'"
            ) from None
        if jobs < 1:
            raise SparselthError(f"got {jobs} jobs at once; it must be at least 1")
        self.slots = jobs
        self.device = device
        try:
            self.executor = submitit.AutoExecutor(folder=Path(folder) / "jobs", cluster=cluster)
            self.executor.update_parameters(**(options or {}))
        except (ValueError, NameError, TypeError, AssertionError, RuntimeError) as error:
            raise SparselthError(
                f"submitit refuses the cluster {cluster!r} or the options {options}: {error}"
            ) from error
        self.running: list[Any] = []

    def submit(self, job: Job) -> Running:
        submitted = self.executor.submit(_on_cluster, job, self.device)
        self.running.append(submitted)
        return _Submitted(submitted, self.running)

    def close(self) -> None:
        for job in self.running:
            job.cancel()


class _Submitted:
    def __init__(self, job: Any, running: list[Any]) -> None:
        self.job, self.running = job, running

    def finished(self) -> bool:
        return bool(self.job.done())

    def result(self) -> Any:
        from submitit.core.utils import UncompletedJobError

        try:
            answer = self.job.result()
        except UncompletedJobError as error:  # killed, or out of time or memory
            log = self.job.paths.stderr
            raise CellError(
                f"its job {self.job.job_id} ended without a result, see {log}", str(error)
            ) from None
        finally:
            self.running.remove(self.job)
        return outcome(*answer)


def _on_cluster(job: Job, device: str) -> tuple[str, Any]:
    """Run a job where it landed; "auto" is decided there."""
    return attempt(job, checked_device(device))


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
