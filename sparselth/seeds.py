"""Turn one seed into many that have nothing to do with each other.

Every random draw of a study follows from the user's seed and the names of what it is for, never
from how many draws came before. That is what makes a resumed run equal to an unbroken one.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: object) -> int:
    """Derive a 63-bit seed from `seed` and a purpose; the same on every machine and version."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Make a CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
