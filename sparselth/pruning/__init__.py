"""Finding masks: score x pattern x allocation x schedule, ADMM, and how weights correlate."""

from . import rho
from .admm import ADMM, ADMMUpdate
from .allocation import ALLOCATIONS
from .controls import inverted_masks, shuffled_masks, shuffled_weights
from .erk import erk_sparsities
from .masks import check_alive, check_search, find_masks, sparsity
from .overlap import layer_overlaps, overlap_chance, weight_overlap
from .patterns import PATTERNS, kernel_shapes
from .quantize import Levels
from .scores import SCORES, ScoreContext, needs
from .tensors import first_and_last, prunable_parameters
from .torch_prune import from_torch_prune

__all__ = [
    "ADMM",
    "ALLOCATIONS",
    "PATTERNS",
    "SCORES",
    "ADMMUpdate",
    "Levels",
    "ScoreContext",
    "check_alive",
    "check_search",
    "erk_sparsities",
    "find_masks",
    "first_and_last",
    "from_torch_prune",
    "inverted_masks",
    "kernel_shapes",
    "layer_overlaps",
    "needs",
    "overlap_chance",
    "prunable_parameters",
    "rho",
    "shuffled_masks",
    "shuffled_weights",
    "sparsity",
    "weight_overlap",
]
