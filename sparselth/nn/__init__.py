"""Modules that train on a mask, and the conversion to and from plain modules."""

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
    "densify",
    "masks_of",
    "profile",
    "sparsify",
]
