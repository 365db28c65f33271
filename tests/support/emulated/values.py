"""The values that cases are drawn from: smooth, tied, rounded, signed zeros, and not finite."""

from __future__ import annotations

import torch
from torch import Tensor


def masks_of_overlap(a: list[Tensor], b: list[Tensor], integer, g: torch.Generator) -> list[Tensor]:
    """Return a mask per pair: some, all or none of its entries; here and there just the finite."""
    masks = []
    for x, y in zip(a, b, strict=True):
        mask = torch.rand(x.shape, generator=g) < (0.6, 1.0, 0.0)[max(0, integer(-3, 2))]
        masks.append(mask & x.isfinite() & y.isfinite() if integer(0, 1) else mask)
    return masks


def values(dtype: torch.dtype, shape: tuple[int, ...], kind: int, g: torch.Generator) -> Tensor:
    """Return values: smooth, full of ties, all equal, signed zeros, denormals, mixed, with NaN and
    infinity, or such that a sum of their squares depends on the order of addition.
    """
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    if kind == 1:
        x = torch.randint(-2, 3, shape, generator=g).double()
    elif kind == 2:
        x = torch.full(shape, -1.5, dtype=torch.float64)
    elif kind == 3:
        x = torch.where(x > 0, 0.0, -0.0)
    elif kind == 4:
        x = x * torch.finfo(dtype).tiny / 8
    elif kind == 5:
        x = torch.where(torch.rand(shape, generator=g) < 0.6, torch.zeros_like(x), x)
    elif kind == 6:
        odd = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=torch.float64)
        where = torch.rand(shape, generator=g) < 0.02
        x = torch.where(where, odd[torch.randint(3, shape, generator=g)], x)
    elif kind == 7 and dtype == torch.float64:
        x = torch.where(x > 1.5, 1.1, 0.7)  # squares that must be rounded before they are added
    elif kind == 7:
        x = torch.where(x > 0.5, 2.0**14, 2.0**-13 * (1 + x.abs().round()))
    return x.to(dtype)


def with_other_nans(x: Tensor, g: torch.Generator) -> Tensor:
    """Return x with another bit pattern in some of its NaN, which is larger than the usual one."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    other = x.isnan() & (torch.rand(x.shape, generator=g) < 0.5)
    return (x.view(whole) | other.to(whole)).view(x.dtype)
