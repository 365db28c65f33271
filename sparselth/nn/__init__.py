"""Modules that train on a mask, and the conversion to and from plain modules."""

from ..deprecated import renamed_names
from .choices import adopt_choices, measured_choices
from .convert import densify, masks_of, move_masks, sparsify
from .coverage import Coverage, coverage
from .dense_gradients import DenseGradients
from .kinds import Site, sites_of
from .loading import load_sparse
from .masked import MaskedConv1d, MaskedConv2d, MaskedLinear
from .module import MaskedModule
from .norm import LaneBatchNorm2d
from .profile_table import LaneExit, Profile, ProfileRow
from .profiling import profile
from .stem import StemConv2d

__getattr__ = renamed_names(
    globals(), {"BlockedBatchNorm2d": "LaneBatchNorm2d", "EntryConv2d": "StemConv2d"}
)

__all__ = [
    "Coverage",
    "DenseGradients",
    "LaneBatchNorm2d",
    "LaneExit",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedLinear",
    "MaskedModule",
    "Profile",
    "ProfileRow",
    "Site",
    "StemConv2d",
    "adopt_choices",
    "coverage",
    "densify",
    "load_sparse",
    "masks_of",
    "measured_choices",
    "move_masks",
    "profile",
    "sites_of",
    "sparsify",
]
