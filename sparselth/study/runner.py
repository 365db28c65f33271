"""Run a study: every cell once, from where the last start left off."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import SparselthError
from ..training import CheckpointError, History
from .analysis.gather import gather
from .analysis.tables import history_rows, trace_rows
from .execution.compute import Work
from .execution.draws import DRAWS, prunable
from .execution.environment import warn_if_changed
from .execution.executors import Executor, InProcess
from .execution.folder import RunFolder, opened
from .execution.jobs import CellError, Compute, Describe, Job, TimeTraining
from .execution.progress import Progress, Silent
from .execution.scheduler import Failure, execute
from .plan.cells import DENSE, MASKS, Cell, cells, epochs, needs
from .plan.config import StudyConfig
from .plan.protocols import PROTOCOLS
from .report import write_report


def run(
    config: StudyConfig,
    out_dir: str | Path,
    *,
    device: str = "auto",
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the study and return its summary, which is also in `out_dir/summary.json`.

    What `out_dir` already holds of the same study is loaded, not repeated: a study that was killed
    goes on and ends with the numbers it would have had, and the lists of its grid may be longer
    than before. A cell that fails, such as a training that diverges, is listed under "failures" and
    does not stop the rest; the next start tries it again.

    config: what is computed.  out_dir: the run folder, made where it is missing.
    `device` is "auto" (a GPU if there is one), "cpu" or "cuda". `executor` is where the cells run,
    by default in this process on `device`; the study closes it. `progress` shows how far it is, by
    default nothing does.

    Raises `SparselthError` when the data set is not there, `out_dir` holds another study, a model
    has nothing to prune, or no network at all could be trained.
    """
    executor = executor or InProcess(device)
    try:
        # Only described and loaded here: what is computed is computed where the executor says.
        work = Work(config, Path(out_dir), torch.device("cpu"))
        _check(work)
        with opened(out_dir, config) as folder:
            return _Study(work, folder, executor, progress or Silent()).run()
    finally:
        executor.close()


def _check(work: Work) -> None:
    """Load every data set and build every network for it, before anything is written."""
    config = work.config
    for data in config.data:
        for model in config.models:
            prunable(config, work.model(Cell(model, data, 0.0, 0)))
            if any(not PROTOCOLS[protocol].masked for protocol in config.protocols):
                work.small_dense(Cell(model, data, 0.0, 0, sparsity=max(config.sparsities)))


class _Study:
    """The state of a study while it runs."""

    def __init__(
        self, work: Work, folder: RunFolder, executor: Executor, progress: Progress
    ) -> None:
        self.work = work
        self.config = work.config
        self.folder = folder
        self.executor = executor
        self.progress = progress
        self.histories: dict[Cell, History] = {}
        self.failures: dict[Cell, Failure] = {}

    def run(self) -> dict[str, Any]:
        try:
            here = self.executor.submit(Describe()).result()
        except CellError as error:
            raise SparselthError(f"nothing can be computed: {error}") from error
        warn_if_changed(self.folder.read_json("environment.json"), here)
        self.folder.write_json("environment.json", here)
        with self.progress:
            self.progress.plan({cell: epochs(self.config, cell) for cell in cells(self.config)})
            self._draw()
            self._compute()
            timing = self._timing()
            self._write_failures()
            self.progress.note("comparing weights and writing the report")
            failures = list(self.failures.values())
            summary, by_layer = gather(self.work, self.histories, failures, timing, here)
            self._write_tables()
            self.folder.write_table("layer_overlaps.csv", by_layer)
            write_report(summary, self.folder.path)
            self.folder.write_json("summary.json", summary)  # last: where it stands, all is there
        return summary

    def _draw(self) -> None:
        """Draw every initialization here: cells side by side would draw the same."""
        starts = {PROTOCOLS[protocol].start for protocol in self.config.protocols}
        for cell in cells(self.config):
            if cell.protocol == DENSE:
                for name in DRAWS:
                    # R_p compares theta_0' also where nothing is trained from it.
                    if name != "theta_scratch" or name in starts:
                        self.work.draw(cell, name)

    def _compute(self) -> None:
        wanted = {}
        for cell in cells(self.config):
            self._load(cell)
            if cell not in self.histories:
                wanted[cell] = needs(self.config, cell)
        execute(wanted, self.executor, self._job, self._ended, self._lost, self._watch)

    def _job(self, cell: Cell) -> Job:
        job = Compute(self.config, self.folder.path, cell)
        self.progress.begin(cell, done=self._epochs_done(cell))
        if not self.executor.local:
            return job
        return dataclasses.replace(
            job, on_epoch_end=lambda record: self.progress.epoch(cell, record)
        )

    def _ended(self, cell: Cell) -> None:
        if not self._load(cell):
            raise CellError("it ended without leaving a result", "")

    def _lost(self, failure: Failure) -> None:
        self.failures[failure.cell] = failure
        self.progress.failed(failure.cell)
        if failure.cause is None:  # what only follows from it is told in the report
            self.progress.note(f"FAILED {failure.cell.label}: {failure.error}")

    def _load(self, cell: Cell) -> bool:
        """Load a cell's history, if it is complete, and say so."""
        try:
            history = self.work.history(cell)
        except CheckpointError as error:
            # Computing it again says the same, and there it is a failure like any other.
            self.progress.note(str(error))
            return False
        if history is None:
            return False
        self.histories[cell] = history
        self.progress.end(cell, history)
        return True

    def _watch(self, running: Sequence[Cell]) -> None:
        """Look how far cells elsewhere are."""
        for cell in running:
            self.progress.reached(cell, self._epochs_done(cell))

    def _epochs_done(self, cell: Cell) -> int:
        place = cell.sibling("search") if cell.protocol == MASKS else cell
        return max(self.folder.checkpoints(place.folder).epochs(), default=0)

    def _timing(self) -> list[dict[str, Any]]:
        """Time sparse against dense training, once per run folder, with nothing else running."""
        rows = {
            (row["model"], row["data"], row["sparsity"]): row
            for row in self.folder.read_json("timing.json") or []
        }
        for cell in cells(self.config):
            key = (cell.model, cell.data, cell.sparsity)
            # Any masks of a sparsity are timed for all.
            if cell.protocol != MASKS or cell not in self.histories or key in rows:
                continue
            self.progress.note(f"timing sparse against dense: {cell.label}")
            job = TimeTraining(self.config, self.folder.path, cell)
            try:
                rows[key] = self.executor.submit(job).result()
            except CellError as error:
                timing = cell.sibling("timing")
                self.failures[timing] = Failure(timing, str(error), error.trace)
                self.progress.note(f"FAILED {timing.label}: {error}")
                continue
            self.folder.write_json("timing.json", list(rows.values()))
        return list(rows.values())

    def _write_tables(self) -> None:
        """Write what is too long for the summary: every epoch of every training."""
        done = [cell for cell in cells(self.config) if cell in self.histories]
        rows = history_rows({cell: self.histories[cell] for cell in done})
        self.folder.write_table("history.csv", rows)
        traces = {cell: self.work.trace(cell) for cell in done if cell.trained}
        self.folder.write_table("overlap_trace.csv", trace_rows(traces))

    def _write_failures(self) -> None:
        rows = [
            {**failure.cell.place(), "protocol": failure.cell.protocol}
            | {"error": failure.error, "traceback": failure.trace.splitlines()}
            for failure in self.failures.values()
        ]
        self.folder.write_json("failures.json", rows)
        if not any(cell.protocol == DENSE for cell in self.histories):
            first = next(iter(self.failures.values()))
            raise SparselthError(
                f"no network could be trained, see {self.folder.path}/failures.json; "
                f"the first: {first.cell.label}: {first.error}"
            )
