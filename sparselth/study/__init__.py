"""The paper's comparison: winning ticket, random re-initialisation, pruning & fine-tuning."""

from .cells import Cell, initial_weights
from .config import StudyConfig
from .presets import PRESETS, preset
from .runner import run

__all__ = ["PRESETS", "Cell", "StudyConfig", "initial_weights", "preset", "run"]
