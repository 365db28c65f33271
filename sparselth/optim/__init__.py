"""Optimizers that keep weights, gradients and state on the mask."""

from .base import MaskedOptimizer
from .masked import masked
from .sgd import SGD

__all__ = ["SGD", "MaskedOptimizer", "masked"]
