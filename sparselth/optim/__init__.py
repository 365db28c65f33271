"""Optimizers that keep weights, gradients and state on the mask."""

from ..deprecated import renamed_names
from .adamw import AdamW
from .base import MaskedOptimizer
from .keep_on_mask import keep_on_mask
from .penalties import GroupLasso, ScaleL1, StepPenalty
from .sgd import SGD

__getattr__ = renamed_names(globals(), {"masked": "keep_on_mask"})

__all__ = [
    "SGD",
    "AdamW",
    "GroupLasso",
    "MaskedOptimizer",
    "ScaleL1",
    "StepPenalty",
    "keep_on_mask",
]
