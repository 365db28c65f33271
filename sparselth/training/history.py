"""What a training run looked like, epoch by epoch."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a training: accuracies in percent, time in seconds.

    `epoch` counts from 1; `learning_rate` is that of its steps. `train_loss` and `train_accuracy`
    are means over the epoch as it went, with augmentation; `test_accuracy` is NaN where the recipe
    left the evaluation out. `seconds` is training alone, without evaluation and checkpoints.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass
class History:
    """The epochs of one run, in order: `records`, one `EpochRecord` each."""

    records: list[EpochRecord] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def test_accuracy(self) -> float:
        """Test accuracy in percent after the last epoch; never the best, which would peek."""
        return self.records[-1].test_accuracy

    @property
    def seconds_per_epoch(self) -> float:
        """The median over the epochs: seconds of training, without evaluation."""
        return statistics.median(record.seconds for record in self.records)

    def to_rows(self) -> list[dict[str, Any]]:
        """Convert to plain dictionaries, for JSON or CSV."""
        return [dataclasses.asdict(record) for record in self.records]

    @classmethod
    def from_rows(cls, rows: list[dict[str, Any]]) -> History:
        """Convert back from `to_rows`.  rows: a dictionary per epoch, with every field."""
        return cls([EpochRecord(**row) for row in rows])
