"""Show how far a study is: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from ..training import EpochRecord, History
from .cells import Cell


class Progress:
    """What a running study reports. This one shows nothing; subclasses override `show`."""

    def __init__(self) -> None:
        self.planned: dict[Cell, int] = {}
        self.done: dict[Cell, int] = {}
        self.seconds: dict[str, list[float]] = {}
        self.last = time.perf_counter()

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
        self.done[cell] = done
        self.last = time.perf_counter()
        self.show(cell, "")

    def epoch(self, cell: Cell, record: EpochRecord) -> None:
        """Count an epoch that was just trained."""
        now = time.perf_counter()
        self.seconds.setdefault(cell.kind, []).append(now - self.last)
        self.last = now
        self.done[cell] = record.epoch
        self.show(cell, f"epoch {record.epoch}, test {record.test_accuracy:.1f} %")

    def end(self, cell: Cell, history: History) -> None:
        """Close a cell, whether it was trained now or before."""
        self.done[cell] = self.planned[cell]
        self.finished(cell, history)

    def note(self, text: str) -> None:
        """Say what else is going on."""

    def show(self, cell: Cell, text: str) -> None:
        """Update the display."""

    def finished(self, cell: Cell, history: History) -> None:
        """Report a cell that is complete."""

    def seconds_left(self) -> float | None:
        """Estimate the time left from what epochs of each kind took; None before the first.

        A kind that has not run yet is taken to cost what the slowest so far does.
        """
        means = {kind: sum(s) / len(s) for kind, s in self.seconds.items()}
        if not means:
            return None
        return sum(
            (epochs - self.done.get(cell, 0)) * means.get(cell.kind, max(means.values()))
            for cell, epochs in self.planned.items()
        )

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
