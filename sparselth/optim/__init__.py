"""Optimizers that keep weights, gradients and state on the mask."""

from .masked import masked
from .sgd import SGD

__all__ = ["SGD", "masked"]
