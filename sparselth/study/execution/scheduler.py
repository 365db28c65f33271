"""Run cells in an order in which each finds what it needs, as many at once as there is room."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..plan.cells import Cell
from .executors import Executor, Running
from .jobs import CellError, Job


@dataclass(frozen=True)
class Failure:
    """A cell that has no result, and why.

    trace: the traceback.  cause: the cell that failed before, where this one was not tried.
    """

    cell: Cell
    error: str
    trace: str = ""
    cause: Cell | None = None


def execute(
    needs: Mapping[Cell, Sequence[Cell]],
    executor: Executor,
    job: Callable[[Cell], Job],
    ended: Callable[[Cell], None],
    lost: Callable[[Failure], None],
    watch: Callable[[Sequence[Cell]], None],
) -> None:
    """Run every cell of `needs`.

    needs: cells in order of preference, and which of them each waits for.  job: makes the job of a
    cell.  ended, lost: called after each that succeeded or failed; `ended` raises `CellError` for
    one that failed after all.  watch: called now and then with those running.

    A cell that failed does not stop the others; one that needs it fails without being tried.
    """
    waiting = dict(needs)
    running: dict[Cell, Running] = {}
    failed: dict[Cell, Failure] = {}

    def lose(failure: Failure) -> None:
        failed[failure.cell] = failure
        lost(failure)

    while waiting or running:
        while doomed := _doomed(waiting, failed):
            for cell, need in doomed:
                del waiting[cell]
                cause = failed[need].cause or need
                lose(Failure(cell, f"not run, as this failed: {cause.label}", cause=cause))
        for cell in [c for c, wanted in waiting.items() if _ready(wanted, waiting, running)]:
            if len(running) == executor.slots:
                break
            del waiting[cell]
            try:
                running[cell] = executor.submit(job(cell))
            except CellError as error:
                lose(Failure(cell, str(error), error.trace))
        for cell in [c for c, handle in running.items() if handle.finished()]:
            try:
                running.pop(cell).result()
                ended(cell)
            except CellError as error:
                lose(Failure(cell, str(error), error.trace))
        watch(list(running))
        if running:
            time.sleep(executor.poll_seconds)


def _doomed(
    waiting: Mapping[Cell, Sequence[Cell]], failed: Mapping[Cell, Failure]
) -> list[tuple[Cell, Cell]]:
    """List the cells that wait for one that failed, and that one."""
    return [
        (cell, next(need for need in wanted if need in failed))
        for cell, wanted in waiting.items()
        if any(need in failed for need in wanted)
    ]


def _ready(
    wanted: Sequence[Cell], waiting: Mapping[Cell, Sequence[Cell]], running: Mapping[Cell, Running]
) -> bool:
    return not any(need in waiting or need in running for need in wanted)
