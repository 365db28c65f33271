"""Show how far a study is: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from ...training import EpochRecord, History
from ..plan.cells import Cell


class Progress:
    """What a running study reports. This one shows nothing; subclasses override `show`."""

    def __init__(self) -> None:
        self.planned: dict[Cell, int] = {}
        self.done: dict[Cell, int] = {}
        self.resumed = 0
        self.begun: float | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the display."""

    def plan(self, cells: Mapping[Cell, int]) -> None:
        """Learn what is to come: every cell and its epochs."""
        self.planned = dict(cells)

    def begin(self, cell: Cell, done: int) -> None:
        """Start a cell of which `done` epochs are there already."""
        if self.begun is None:
            self.begun = time.perf_counter()
            self.resumed = sum(self.done.values())
        self.resumed += done
        self.done[cell] = done
        self.show(cell, "")

    def epoch(self, cell: Cell, record: EpochRecord) -> None:
        """Count an epoch that was just trained."""
        self.done[cell] = record.epoch
        self.show(cell, f"epoch {record.epoch}, test {record.test_accuracy:.1f} %")

    def reached(self, cell: Cell, epoch: int) -> None:
        """Learn how far a cell is that trains elsewhere."""
        if epoch != self.done.get(cell):
            self.done[cell] = epoch
            self.show(cell, f"epoch {epoch}")

    def end(self, cell: Cell, history: History) -> None:
        """Close a cell, whether it was trained now or before."""
        self.done[cell] = self.planned[cell]
        self.finished(cell, history)

    def failed(self, cell: Cell) -> None:
        """Close a cell that has no result."""
        self.planned[cell] = self.done.get(cell, 0)

    def note(self, text: str) -> None:
        """Say what else is going on."""

    def show(self, cell: Cell, text: str) -> None:
        """Update the display."""

    def finished(self, cell: Cell, history: History) -> None:
        """Report a cell that is complete."""

    def seconds_left(self) -> float | None:
        """Estimate the time left from the epochs since the start; None before the first."""
        done, total = self.totals()
        if self.begun is None or done <= self.resumed:
            return None
        return (time.perf_counter() - self.begun) / (done - self.resumed) * (total - done)

    def totals(self) -> tuple[int, int]:
        """Return (epochs done, epochs in all)."""
        return sum(self.done.values()), sum(self.planned.values())


Silent = Progress


class Lines(Progress):
    """A line per cell, for logs."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def finished(self, cell: Cell, history: History) -> None:
        if not len(history):
            return  # a search that trains nothing
        done, total = self.totals()
        self.console.print(
            f"[{done}/{total} epochs, {_clock(self.seconds_left())} left] {cell.label}: "
            f"test {history.test_accuracy:.1f} %, {history.seconds_per_epoch:.2f} s per epoch",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Live(Lines):
    """A bar over all epochs of the study, with the time left, below a line per finished cell."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console,
        )
        self.task = self.bar.add_task("starting", total=None, left="?")

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def show(self, cell: Cell, text: str) -> None:
        done, total = self.totals()
        description = f"{cell.label}, {text}" if text else cell.label
        self.bar.update(
            self.task,
            description=description,
            completed=done,
            total=total,
            left=_clock(self.seconds_left()),
        )

    def note(self, text: str) -> None:
        super().note(text)
        self.bar.update(self.task, description=text)


def for_console(console: Console) -> Progress:
    """Choose the live bar for a terminal and plain lines for anything else."""
    return Live(console) if console.is_terminal else Lines(console)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
