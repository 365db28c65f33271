"""Finding masks: score x pattern x allocation x schedule, ADMM, and how weights correlate."""

from . import rho
from .admm import ADMM, ADMMUpdate
from .masks import ALLOCATIONS, PATTERNS, SCORES, find_masks, sparsity
from .overlap import layer_overlaps, overlap_chance, weight_overlap
from .tensors import prunable_parameters

__all__ = [
    "ADMM",
    "ALLOCATIONS",
    "PATTERNS",
    "SCORES",
    "ADMMUpdate",
    "find_masks",
    "layer_overlaps",
    "overlap_chance",
    "prunable_parameters",
    "rho",
    "sparsity",
    "weight_overlap",
]
