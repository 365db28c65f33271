"""The paper's study: tickets, re-initialization and fine-tuning compared, on a grid of settings."""

from .execution.cluster import Submitit
from .execution.draws import initial_weights
from .execution.executors import InProcess, Processes
from .plan.cells import Cell
from .plan.config import StudyConfig
from .plan.presets import PRESETS, preset
from .plan.thresholds import Thresholds
from .runner import run

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
