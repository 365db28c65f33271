"""Train a model on an image set by a recipe, resumably; plain or on fixed masks."""

from ..deprecated import renamed_names
from .admm import ADMMSchedule
from .callbacks import Callback, HistoryFile, KeepBest, KeepEpoch, ProgressBar, TensorBoard
from .checkpoint import CheckpointError, CheckpointFolder
from .evaluate import evaluate
from .history import EpochRecord, History
from .loop import Regularizer, train
from .recipe import Recipe
from .tickets import FineTuned, Ticket, find_ticket, prune_and_finetune

__getattr__ = renamed_names(
    globals(), {"AdmmSchedule": "ADMMSchedule", "Regulariser": "Regularizer"}
)

__all__ = [
    "ADMMSchedule",
    "Callback",
    "CheckpointError",
    "CheckpointFolder",
    "EpochRecord",
    "FineTuned",
    "History",
    "HistoryFile",
    "KeepBest",
    "KeepEpoch",
    "ProgressBar",
    "Recipe",
    "Regularizer",
    "TensorBoard",
    "Ticket",
    "evaluate",
    "find_ticket",
    "prune_and_finetune",
    "train",
]
