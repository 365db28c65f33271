"""The masked linear map for everyone: arguments checked in words, then the op."""

from __future__ import annotations

from torch import Tensor

from ..errors import SparselthError
from . import reference
from .autocast import autocast
from .backends import implementation
from .checks import (
    check_aligned,
    check_bias,
    check_floating,
    check_mask,
    check_plan,
)
from .transforms import transformed


def masked_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    plan: Tensor | None = None,
) -> Tensor:
    """Apply the linear map with the weights that the mask keeps: y = x (weight * mask)^T + bias.

    x: (..., C_in).  weight: (C_out, C_in), or (C_in,) for one output that y has no dimension for.
    mask: bool, the weight's shape.  bias: (C_out,), or (1,) or () for all outputs alike.
    Differentiable twice; the weight gradient is exactly zero where the mask is False. Under
    `torch.autocast` x, weight and bias are cast as for `linear`.

    Raises SparselthError on mismatched shapes, dtypes or devices.
    """
    check_floating("x", x)
    check_floating("weight", weight)
    check_plan(plan)
    if weight.dim() == 1:
        check_mask(mask, weight)
        return masked_linear(x, weight[None], mask[None], bias, plan=plan)[..., 0]
    x, weight, bias = autocast(x, weight, bias)
    if isinstance(bias, Tensor) and weight.dim() == 2 and bias.shape in ((), (1,)):
        bias = bias.expand(weight.shape[0]).contiguous()
    check_linear(x, weight, mask, bias)
    if transformed():
        return reference.masked_linear(x, weight, mask, bias, None)
    run = implementation("masked_linear", x.device)
    rows = as_rows(x)
    return run(rows, weight, mask, bias, plan).view(*x.shape[:-1], weight.shape[0])


def as_rows(x: Tensor) -> Tensor:
    """Return x (..., C_in) as (rows, C_in)."""
    # Not -1: without features the number of rows could not be told.
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def check_linear(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None) -> None:
    """Check what `masked_linear` is given.

    Raises SparselthError on mismatched shapes, dtypes or devices.
    """
    if weight.dim() != 2:
        raise SparselthError(
            f"weight must be (C_out, C_in) or (C_in,), got shape {tuple(weight.shape)}"
        )
    check_mask(mask, weight)
    check_aligned("x", x, "weight", weight)
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise SparselthError(
            f"x must end in {weight.shape[1]} features, got shape {tuple(x.shape)}"
        )
    check_bias(bias, weight)
