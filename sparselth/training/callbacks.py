"""What may happen beside a training: show it, write it down, keep the best."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from ..checks import check_whole, kind
from ..errors import SparselthError
from ..files import as_path, make_folder, write_atomically
from ..nn import masks_of
from .checkpoint import CheckpointFolder
from .history import History
from .recipe import Recipe
from .resume import plain_weights


class Callback:
    """Does nothing; subclasses override what they need."""

    everywhere = False
    """Whether every one of several processes calls it, and not only the first."""

    def train_begin(self, model: nn.Module, recipe: Recipe, history: History) -> None:
        """Begin: called once, before the first epoch.

        model: what is trained, in its final form.  recipe: how.  history: the epochs done before,
        when a run goes on; empty otherwise.

        Raises SparselthError where the callback cannot do its work: nothing is trained then.
        """

    def epoch_end(self, model: nn.Module, history: History) -> None:
        """Follow an epoch, the last of `history`; its checkpoint is written.

        model: as it is then; what is changed in it is trained on.
        """

    def train_end(self) -> None:
        """End, also after an error."""


class ProgressBar(Callback):
    """A live line: epochs, time left, loss and accuracies.

    console: of rich, where to; its own on standard output when None.

    Raises SparselthError for what is no console of rich.
    """

    def __init__(self, console: Console | None = None) -> None:
        if console is not None and not isinstance(console, Console):
            raise SparselthError(f"console must be a rich.console.Console, got {kind(console)}")
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} epochs"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.bar.add_task("training", total=None)

    def train_begin(self, model: nn.Module, recipe: Recipe, history: History) -> None:
        self.bar.update(self.task, total=recipe.epochs, completed=len(history))
        self.bar.start()

    def epoch_end(self, model: nn.Module, history: History) -> None:
        record = history.records[-1]
        text = f"loss {record.train_loss:.3f}, train {record.train_accuracy:.1f} %"
        if not math.isnan(record.test_accuracy):
            text += f", test {record.test_accuracy:.1f} %"
        self.bar.update(self.task, description=text, completed=record.epoch)

    def train_end(self) -> None:
        self.bar.stop()


class HistoryFile(Callback):
    """The history as a file, replaced as a whole after each epoch.

    path: ends in .csv, or .jsonl for an object per line. What was not evaluated is left empty.

    Raises SparselthError for another path, and when training begins where it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path, "the path of a history")
        if self.path.suffix not in (".csv", ".jsonl"):
            raise SparselthError(f"a history goes to a .csv or a .jsonl file, got {self.path}")

    def train_begin(self, model: nn.Module, recipe: Recipe, history: History) -> None:
        make_folder(self.path.parent, "the folder of a history,")
        if self.path.is_dir():
            raise SparselthError(f"the history {self.path} is a folder; name a file")

    def epoch_end(self, model: nn.Module, history: History) -> None:
        rows = [
            {name: None if v != v else v for name, v in row.items()} for row in history.to_rows()
        ]
        if self.path.suffix == ".jsonl":
            text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        else:
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            text = buffer.getvalue()
        write_atomically(self.path, text)


class TensorBoard(Callback):
    """Scalars for TensorBoard: losses, accuracies, learning rate, seconds.

    folder: where the event files go; it is made when training begins.

    Raises SparselthError when the package tensorboard is not installed, and when training begins
    where the folder cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SparselthError(
                "TensorBoard needs the package tensorboard; run: "
                "pip install 'sparselth[tensorboard]'"
            ) from error
        folder = as_path(folder, "the folder of TensorBoard")
        self._open = lambda step: SummaryWriter(
            str(make_folder(folder, "the folder of TensorBoard,")), purge_step=step
        )
        self.writer: Any = None

    def train_begin(self, model: nn.Module, recipe: Recipe, history: History) -> None:
        # What a killed run wrote after its last checkpoint is hidden.
        self.writer = self._open(len(history) + 1)

    def epoch_end(self, model: nn.Module, history: History) -> None:
        row = history.to_rows()[-1]
        epoch = row.pop("epoch")
        for name, value in row.items():
            if not math.isnan(value):
                self.writer.add_scalar(name, value, epoch)

    def train_end(self) -> None:
        if self.writer is not None:
            self.writer.close()


class KeepBest(Callback):
    """The weights and masks of the epoch of the highest test accuracy, as a checkpoint.

    folder: where to; what it holds already has to be beaten. `load` reads it.
    For use, not for comparing protocols: choosing by the test set flatters.

    Raises SparselthError, when training begins, where the folder cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = CheckpointFolder(folder, keep=1)
        self.accuracy = -math.inf

    def train_begin(self, model: nn.Module, recipe: Recipe, history: History) -> None:
        make_folder(self.folder.path, "the folder of the best weights,")
        best = self.load()
        self.accuracy = -math.inf if best is None else best["test_accuracy"]

    def epoch_end(self, model: nn.Module, history: History) -> None:
        """Save weights and masks of `model` if the last test accuracy of `history` is the highest.

        Raises SparselthError for what is no model.
        """
        record = history.records[-1]
        if record.test_accuracy > self.accuracy:  # never, where it is NaN
            state = {"model": plain_weights(model), "masks": masks_of(model)}
            self.folder.save(record.epoch, {**state, "test_accuracy": record.test_accuracy})
            self.accuracy = record.test_accuracy

    def load(self) -> dict[str, Any] | None:
        """Return {"model", "masks", "test_accuracy"}, or None when there is nothing yet."""
        newest = self.folder.load()
        return None if newest is None else newest[1]


class KeepEpoch(Callback):
    """The weights as they are after one epoch, as a checkpoint: what rewinding goes back to.

    folder: where to; `CheckpointFolder(folder).load()` reads it.  epoch: how many are complete
    then; 0 for the initialization.

    Reference: Frankle et al. 2020, arXiv:1912.05671 (rewinding).

    Raises SparselthError for an epoch that is no count, and when training begins for one that the
    recipe does not have, or where the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, epoch: int) -> None:
        self.folder = CheckpointFolder(folder, keep=1)
        self.epoch = check_whole("the epoch to keep", epoch, 0)

    def train_begin(self, model: nn.Module, recipe: Recipe, history: History) -> None:
        check_whole("the epoch to keep", self.epoch, 0, recipe.epochs)
        make_folder(self.folder.path, "the folder of an epoch's weights,")
        # A kill may have come between this epoch's checkpoint and what follows it.
        self.epoch_end(model, history)

    def epoch_end(self, model: nn.Module, history: History) -> None:
        if len(history) == self.epoch and not self.folder.epochs():
            self.folder.save(self.epoch, {"model": plain_weights(model)})
