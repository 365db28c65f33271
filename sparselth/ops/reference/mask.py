"""A mask applied to a weight, by definition."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_mask(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return `weight` where `mask` keeps it, else 0; None keeps everything and copies nothing.

    weight: any shape and dtype.  mask: bool, its shape.  A NaN where the mask prunes becomes 0.
    """
    if mask is None:
        return weight
    # where, not a product: a NaN under the mask must not leak.
    return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


def zero_off_mask_(weight: Tensor, mask: Tensor) -> None:
    """Set `weight` to zero where `mask` prunes it, in place; NaN too.

    weight: any shape and dtype.  mask: bool, its shape.
    """
    weight.masked_fill_(~mask, 0)
