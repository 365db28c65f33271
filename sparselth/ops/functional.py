"""The public layers: arguments checked once, in words, then the op.

`use_backend` is honoured here. With "reference" the functions run the plain PyTorch oracle,
differentiated by PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SparselthError
from . import reference
from .autograd.conv import MaskedConv2d
from .backends import forced, implementation
from .checks import (
    as_int,
    as_pair,
    check_aligned,
    check_floating,
    check_mask,
    check_plan,
    same_padding,
)
from .lanes.convert import can_use_lanes, is_plain_eager_cpu
from .lanes.tensor import in_lanes
from .transforms import transformed

# Asked once: the question breaks the graph of torch.compile in torch 2.11.
_WITH_AUTOCAST = frozenset(
    kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind)
)


def autocast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Return tensors as `torch.autocast` would hand them to a convolution on the device of `x`."""
    device = x.device.type
    if device not in _WITH_AUTOCAST or not torch.is_autocast_enabled(device):
        return (x, *others)
    dtype = torch.get_autocast_dtype(device)

    def cast(t: Tensor | None) -> Tensor | None:
        if t is None or not t.is_floating_point() or t.dtype == torch.float64:
            return t
        return t.to(dtype)

    return tuple(cast(t) for t in (x, *others))


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    relu: bool = False,
    plan: Tensor | None = None,
) -> Tensor:
    """Convolve with the weights that the mask keeps: y = conv2d(x, weight * mask) + bias.

    x: (N, C_in, H, W), contiguous or channels_last; the result has the same layout. Or one image,
    (C_in, H, W).
    weight: (C_out, C_in / groups, kH, kW).  mask: bool, the weight's shape.
    bias: (C_out,) or None.  padding: in pixels, or "same" or "valid", as for `conv2d`.
    relu: return max(y, 0); a GPU's kernel of blocks does that before it stores y, all others in a
    pass of their own.
    plan: `sparselth.ops.plan.conv_plan(mask, groups)`, built anew when None.
    float16 and bfloat16 accumulate in float32.
    Differentiable twice; the weight gradient is exactly zero where the mask is False.
    A pruned weight does not multiply: NaN and Inf in x spread through the kept weights only,
    those that happen to be zero included. `conv2d(x, weight * mask)` spreads them through all, and
    on a GPU a kernel does through those of a block that keeps any.

    Under `torch.autocast` x, weight and bias are cast as for `conv2d`.

    Raises SparselthError on mismatched shapes, dtypes or devices.
    """
    check_floating("x", x)
    check_floating("weight", weight)
    check_plan(plan)
    if x.dim() == 3:
        conv = (stride, padding, dilation, groups)
        return masked_conv2d(x[None], weight, mask, bias, *conv, relu=relu, plan=plan)[0]
    x, weight, bias = autocast(x, weight, bias)
    if isinstance(padding, str):
        x, padding = _padded(x, weight, padding, stride, dilation)
    conv = check_conv2d(x, weight, mask, bias, stride, padding, dilation, groups)
    if transformed():
        y = reference.masked_conv2d(x, weight, mask, bias, None, *conv)
        return y.relu() if relu else y
    if not torch.compiler.is_compiling() and _direct(x, weight):
        y = MaskedConv2d.apply(x, weight, bias, mask, plan, conv)
    elif relu and x.device.type == "cuda":
        return implementation("masked_conv2d_relu", x.device)(x, weight, mask, bias, plan, *conv)
    else:
        y = implementation("masked_conv2d", x.device)(x, weight, mask, bias, plan, *conv)
    return y.relu() if relu else y


def _padded(
    x: Tensor,
    weight: Tensor,
    padding: str,
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
) -> tuple[Tensor, Sequence[int]]:
    """Return x, padded where the two sides differ, and the padding in pixels that is left."""
    if weight.dim() != 4:
        return x, (0, 0)  # which is refused below
    steps, spread = as_pair("stride", stride, 1), as_pair("dilation", dilation, 1)
    pads, uneven = same_padding(padding, weight.shape[2:], steps, spread)
    return (F.pad(x, uneven) if any(uneven) else x), pads


def check_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> tuple[list[int], list[int], list[int], int]:
    """Check what `masked_conv2d` is given; return the settings as the op takes them.

    Raises SparselthError on mismatched shapes, dtypes or devices.
    """
    if x.dim() != 4:
        raise SparselthError(
            f"x must be (N, C_in, H, W) or (C_in, H, W), got shape {tuple(x.shape)}"
        )
    if weight.dim() != 4:
        raise SparselthError(
            f"weight must be (C_out, C_in/groups, kH, kW), got shape {tuple(weight.shape)}"
        )
    check_mask(mask, weight)
    check_aligned("x", x, "weight", weight)
    groups = as_int("groups", groups)
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise SparselthError(
            f"channels do not fit: x has {x.shape[1]}, weight {tuple(weight.shape)} with "
            f"groups={groups} takes {weight.shape[1] * groups} and needs C_out divisible by groups"
        )
    _check_bias(bias, weight)
    conv = (
        as_pair("stride", stride, 1),
        as_pair("padding", padding, 0),
        as_pair("dilation", dilation, 1),
        groups,
    )
    _check_not_empty(x, weight, *conv[:3])
    return conv


def _check_bias(bias: Tensor | None, weight: Tensor) -> None:
    if bias is None:
        return
    check_floating("bias", bias)
    if bias.shape != (weight.shape[0],):
        raise SparselthError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    check_aligned("bias", bias, "weight", weight)


def _direct(x: Tensor, weight: Tensor) -> bool:
    """Tell whether x is in lanes and nothing between here and the kernel needs to see the op."""
    return in_lanes(x) and forced() is None and can_use_lanes(x) and is_plain_eager_cpu(weight)


def _check_not_empty(x: Tensor, weight: Tensor, stride, padding, dilation) -> None:
    for axis, name in enumerate(("height", "width")):
        reach = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
        if x.shape[2 + axis] + 2 * padding[axis] < reach:
            raise SparselthError(
                f"the kernel reaches over {reach} pixels of {name}, more than the padded input's "
                f"{x.shape[2 + axis] + 2 * padding[axis]}; use more padding or less dilation"
            )


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
    _check_bias(bias, weight)
