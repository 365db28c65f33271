"""Modules that train on a mask, and the conversion to and from plain modules."""

from .choices import adopt_choices, measured_choices
from .convert import densify, masks_of, sparsify
from .entry import EntryConv2d
from .masked import MaskedConv2d, MaskedLinear, MaskedModule
from .norm import BlockedBatchNorm2d
from .profiling import Profile, ProfileRow, profile

__all__ = [
    "BlockedBatchNorm2d",
    "EntryConv2d",
    "MaskedConv2d",
    "MaskedLinear",
    "MaskedModule",
    "Profile",
    "ProfileRow",
    "adopt_choices",
    "densify",
    "masks_of",
    "measured_choices",
    "profile",
    "sparsify",
]
