"""Optimizers that keep weights, gradients and state on the mask."""

from .sgd import SGD

__all__ = ["SGD"]
