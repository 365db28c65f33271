"""Jobs of a study as jobs of a cluster, through submitit."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from ...errors import SparselthError
from ...files import write_json
from .executors import Running, checked_device
from .jobs import CellError, Job, attempt, outcome

# submitit's own limit of five minutes would end any training worth a cluster.
_MINUTES = 24 * 60


class Submitit:
    """Runs each job as one of a cluster.

    folder: of the study; logs go to `jobs` in it, which all machines must see.  cluster: "slurm",
    or "local" for processes of this machine.  jobs: how many are in the queue at once.  options: of
    submitit, such as {"slurm_partition": "gpu", "timeout_min": 600, "gpus_per_node": 1}; without a
    timeout_min a job may take a day.  device: "auto", "cpu" or "cuda", decided where a job lands.

    submitit hands a job over as a pickle in that folder; what comes of it comes back as JSON.

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
        if jobs < 1:
            raise SparselthError(f"got {jobs} jobs at once; it must be at least 1")
        self.slots = jobs
        self.device = device
        self.cluster = cluster
        self.options = {"timeout_min": _MINUTES, **(options or {})}
        self.folder = Path(folder) / "jobs"
        with TemporaryDirectory() as scratch:  # it writes at once, and may be refused
            self._open(Path(scratch))
        self.executor: Any = None
        self.running: list[Any] = []

    def _open(self, folder: Path) -> Any:
        try:
            import submitit
        except ImportError:
            raise SparselthError(
                "a cluster is reached through submitit, which is not installed; run: "
                "pip install 'sparselth[cluster]'"
            ) from None
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
            executor.update_parameters(**self.options)
        except (ValueError, NameError, TypeError, AssertionError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise SparselthError(
                f"submitit refuses the cluster {self.cluster!r} or the options {self.options}: "
                f"{reason}"
            ) from error
        return executor

    def submit(self, job: Job) -> Running:
        """Put `job` into the queue of the cluster.

        Raises CellError where it is refused.
        """
        self.executor = self.executor or self._open(self.folder)
        answer = self.folder / f"answer-{uuid4().hex}.json"
        try:
            submitted = self.executor.submit(_on_cluster, job, self.device, answer)
        except Exception as error:  # of submitit, of the cluster's own commands, or of a full disk
            reason = " ".join(str(error).split())
            raise CellError(
                f"the cluster {self.cluster} refused its job: {reason}", traceback.format_exc()
            ) from error
        self.running.append(submitted)
        return _Submitted(submitted, answer, self.running)

    def close(self) -> None:
        """Cancel every job that has not been waited for."""
        for job in self.running:
            job.cancel()


class _Submitted:
    def __init__(self, job: Any, answer: Path, running: list[Any]) -> None:
        self.job, self.answer, self.running = job, answer, running

    def finished(self) -> bool:
        return bool(self.job.done())

    def result(self) -> Any:
        self.job.wait()
        self.running.remove(self.job)
        if not self.answer.is_file():  # killed, or out of time or memory
            raise CellError(
                f"its job {self.job.job_id} ended without an answer, see {self.job.paths.stderr}",
                self.job.stderr() or "",
            )
        kind, value = json.loads(self.answer.read_bytes())
        self.answer.unlink()
        return outcome(kind, value)


def _on_cluster(job: Job, device: str, answer: Path) -> None:
    """Run a job where it landed, and write what came of it; "auto" is decided there."""
    write_json(answer, attempt(job, checked_device(device)))
