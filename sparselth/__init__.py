"""sparselth: an accelerated pruning backend for PyTorch.

import sparselth as sl
"""

from __future__ import annotations

import importlib
from types import ModuleType

from . import data, models, nn, ops, optim, pruning, training
from .environment import check_settings
from .errors import SparselthError
from .memory import keep_freed_memory
from .nn import (
    MaskedConv2d,
    MaskedLinear,
    Profile,
    coverage,
    densify,
    load_sparse,
    masks_of,
    profile,
    sparsify,
)
from .ops import use_backend, use_choice
from .ops.backends import backends
from .ops.lanes.memory import release_lane_memory
from .pruning import (
    ADMM,
    GradualPruning,
    compact,
    find_masks,
    from_torch_prune,
    sparsity,
    weight_overlap,
)
from .training import Recipe, find_ticket, prune_and_finetune, train
from .version import __version__ as __version__

check_settings()


def __getattr__(name: str) -> ModuleType:
    # On demand, because a study draws plots and matplotlib is an extra.
    if name == "study":
        return importlib.import_module(".study", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "study"])


__all__ = [
    "ADMM",
    "GradualPruning",
    "MaskedConv2d",
    "MaskedLinear",
    "Profile",
    "Recipe",
    "SparselthError",
    "backends",
    "compact",
    "coverage",
    "data",
    "densify",
    "find_masks",
    "find_ticket",
    "from_torch_prune",
    "keep_freed_memory",
    "load_sparse",
    "masks_of",
    "models",
    "nn",
    "ops",
    "optim",
    "profile",
    "prune_and_finetune",
    "pruning",
    "release_lane_memory",
    "sparsify",
    "sparsity",
    "train",
    "training",
    "use_backend",
    "use_choice",
    "weight_overlap",
]
