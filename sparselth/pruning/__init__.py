"""Finding masks: score x pattern x allocation x schedule, ADMM, and how weights correlate."""

from . import rho
from .admm import ADMM, ADMMUpdate
from .allocation import ALLOCATIONS
from .annealing import annealed_sparsities
from .channels import Coupled
from .compaction import compact
from .controls import inverted_masks, inverted_score, shuffled_masks, shuffled_weights
from .coupling import coupled_channels
from .dynamic import SET, DynamicSparsity, RigL
from .early_bird import EarlyBird
from .erk import erk_sparsities
from .gradual import GradualPruning
from .masks import check_alive, check_search, find_masks, sparsity
from .overlap import layer_overlaps, overlap_chance, weight_overlap
from .patterns import PATTERNS, kernel_shapes
from .popup import EdgePopup
from .quantize import Levels
from .reconstruct import reconstruct
from .schedules import SCHEDULES
from .scores import SCORES, ScoreContext, fpgm_after_norm, needs
from .tensors import first_and_last, prunable_parameters
from .torch_prune import from_torch_prune

__all__ = [
    "ADMM",
    "ALLOCATIONS",
    "PATTERNS",
    "SCHEDULES",
    "SCORES",
    "SET",
    "ADMMUpdate",
    "Coupled",
    "DynamicSparsity",
    "EarlyBird",
    "EdgePopup",
    "GradualPruning",
    "Levels",
    "RigL",
    "ScoreContext",
    "annealed_sparsities",
    "check_alive",
    "check_search",
    "compact",
    "coupled_channels",
    "erk_sparsities",
    "find_masks",
    "first_and_last",
    "fpgm_after_norm",
    "from_torch_prune",
    "inverted_masks",
    "inverted_score",
    "kernel_shapes",
    "layer_overlaps",
    "needs",
    "overlap_chance",
    "prunable_parameters",
    "reconstruct",
    "rho",
    "shuffled_masks",
    "shuffled_weights",
    "sparsity",
    "weight_overlap",
]
