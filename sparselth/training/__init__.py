"""Train a model on an image set by a recipe, resumably; plain or on fixed masks."""

from .admm import AdmmSchedule
from .checkpoint import CheckpointError, CheckpointFolder
from .evaluate import evaluate
from .history import EpochRecord, History
from .loop import Regulariser, train
from .recipe import Recipe

__all__ = [
    "AdmmSchedule",
    "CheckpointError",
    "CheckpointFolder",
    "EpochRecord",
    "History",
    "Recipe",
    "Regulariser",
    "evaluate",
    "train",
]
