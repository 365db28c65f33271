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

    x: (..., C_in), float16, bfloat16, float32 or float64; 16-bit types are summed in float32 and
    rounded once.
    weight: (C_out, C_in), the dtype of x; or (C_in,) for one output that y has no dimension for.
    mask: bool, the weight's shape; True keeps.
    bias: (C_out,), the dtype of x, or (1,) or () for all outputs alike, or None.
    plan: int32, `sparselth.ops.conv_plan(mask)`; None builds it anew in each call, on a GPU it
    is None.
    Returns y (..., C_out), the dtype of x, contiguous.

    It runs the sparse kernel for any mask, also where dense would be faster: choosing is done by
    `sparselth.nn.MaskedLinear`. On a GPU the kernels of convolutions serve masks of blocks, vectors
    and few single weights; where none fits it is dense with the mask applied.
    Differentiable any number of times; the weight gradient is exactly zero where the mask is False.
    Under `torch.autocast` x, weight and bias are cast as for `linear`.

    Raises SparselthError on mismatched shapes, dtypes or devices, and where a forced backend has no
    kernel for this device.
    """
    check_floating("x", x)
    check_floating("weight", weight)
    check_plan(plan, mask)
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

    x, weight, mask, bias: its arguments, weight of two dimensions and bias (C_out,) or None.

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
