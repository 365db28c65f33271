"""Finding masks: score x pattern x allocation x schedule, ADMM, and how weights correlate."""

from . import rho
from .admm import ADMM, ADMMUpdate
from .masks import ALLOCATIONS, SCORES, find_masks, sparsity
from .overlap import layer_overlaps, overlap_chance, weight_overlap
from .patterns import PATTERNS, kernel_shapes
from .quantize import Levels
from .tensors import prunable_parameters

__all__ = [
    "ADMM",
    "ALLOCATIONS",
    "PATTERNS",
    "SCORES",
    "ADMMUpdate",
    "Levels",
    "find_masks",
    "kernel_shapes",
    "layer_overlaps",
    "overlap_chance",
    "prunable_parameters",
    "rho",
    "sparsity",
    "weight_overlap",
]
