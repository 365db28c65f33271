"""Optimizers that keep weights, gradients and state on the mask."""

from .adamw import AdamW
from .base import MaskedOptimizer
from .masked import masked
from .sgd import SGD

__all__ = ["SGD", "AdamW", "MaskedOptimizer", "masked"]
