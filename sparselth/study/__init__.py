"""The paper's study: tickets, re-initialisation and fine-tuning compared, on a grid of settings."""

from .cells import Cell
from .cluster import Submitit
from .config import StudyConfig
from .draws import initial_weights
from .executors import InProcess, Processes
from .presets import PRESETS, preset
from .runner import run
from .thresholds import Thresholds

__all__ = [
    "PRESETS",
    "Cell",
    "InProcess",
    "Processes",
    "StudyConfig",
    "Submitit",
    "Thresholds",
    "initial_weights",
    "preset",
    "run",
]
