"""sparselth: an accelerated pruning backend for PyTorch.

import sparselth as sl
"""

from . import nn, ops, optim, pruning
from .errors import SparselthError
from .nn import MaskedConv2d, MaskedLinear, densify, masks_of, sparsify
from .ops import use_backend
from .ops.backends import backends
from .pruning import ADMM, find_masks, sparsity, weight_overlap

__version__ = "0.1.0"

__all__ = [
    "ADMM",
    "MaskedConv2d",
    "MaskedLinear",
    "SparselthError",
    "backends",
    "densify",
    "find_masks",
    "masks_of",
    "nn",
    "ops",
    "optim",
    "pruning",
    "sparsify",
    "sparsity",
    "use_backend",
    "weight_overlap",
]
