"""Train a model on an image set by a recipe, resumably; plain or on fixed masks."""

from .admm import AdmmSchedule
from .callbacks import Callback, HistoryFile, KeepBest, KeepEpoch, ProgressBar, TensorBoard
from .checkpoint import CheckpointError, CheckpointFolder
from .evaluate import evaluate
from .history import EpochRecord, History
from .loop import Regulariser, train
from .recipe import Recipe
from .tickets import FineTuned, Ticket, find_ticket, prune_and_finetune

__all__ = [
    "AdmmSchedule",
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
    "Regulariser",
    "TensorBoard",
    "Ticket",
    "evaluate",
    "find_ticket",
    "prune_and_finetune",
    "train",
]
