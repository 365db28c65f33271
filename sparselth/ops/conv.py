"""The masked convolution for everyone: arguments checked in words, then the op.

`use_backend` is honored here. With "reference" the function runs the plain PyTorch oracle,
differentiated by PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SparselthError
from . import reference
from .autocast import autocast
from .autograd.conv import MaskedConv2d
from .backends import forced, implementation
from .checks import (
    check_aligned,
    check_bias,
    check_floating,
    check_mask,
    check_plan,
)
from .contract import ConvSettings
from .geometry import as_int, as_pair, same_padding
from .lanes.convert import DTYPES, can_use_lanes, is_plain_eager_cpu
from .lanes.tensor import in_lanes
from .transforms import transformed


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

    x: (N, C_in, H, W), contiguous, channels_last or in lanes; the result has the same layout. Or
    one image, (C_in, H, W). float16, bfloat16, float32 or float64; 16-bit types are summed in
    float32.
    weight: (C_out, C_in / groups, kH, kW), the dtype of x.
    mask: bool, the weight's shape; True keeps.  bias: (C_out,), the dtype of x, or None.
    stride, padding, dilation: in pixels, an int for both axes or (height, width). padding may be
    "same" or "valid", as for `torch.nn.functional.conv2d`.  groups: divides C_in and C_out.
    relu: return max(y, 0); a GPU's kernel of blocks does that before it stores y, all others in a
    pass of their own.
    plan: int32, `sparselth.ops.conv_plan(mask, groups)`; None builds it anew in each call, on a
    GPU it is None.
    Returns y (N, C_out, H_out, W_out), the dtype of x; (C_out, H_out, W_out) for one image.

    It runs the sparse kernels for any mask, also where dense would be faster: choosing is done by
    `sparselth.nn.MaskedConv2d`.
    Differentiable any number of times; the weight gradient is exactly zero where the mask is False.
    A pruned weight does not multiply: NaN and Inf in x spread through the kept weights only,
    those that happen to be zero included. `conv2d(x, weight * mask)` spreads them through all, and
    on a GPU a kernel does through those of a block that keeps any.

    Under `torch.autocast` x, weight and bias are cast as for `conv2d`.

    Raises SparselthError on mismatched shapes, dtypes or devices, a kernel larger than the padded
    image, and where a forced backend has no kernel for this device.
    """
    check_floating("x", x)
    check_floating("weight", weight)
    check_plan(plan, mask)
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
) -> ConvSettings:
    """Check what `masked_conv2d` is given; return the settings as the op takes them.

    x, weight, mask, bias, stride, padding, dilation, groups: its arguments, x with a batch and
    padding in pixels.
    Returns stride, padding and dilation as [height, width], and groups.

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
    check_bias(bias, weight)
    conv = (
        as_pair("stride", stride, 1),
        as_pair("padding", padding, 0),
        as_pair("dilation", dilation, 1),
        groups,
    )
    _check_not_empty(x, weight, *conv[:3])
    return conv


def _direct(x: Tensor, weight: Tensor) -> bool:
    """Tell whether x is in lanes and nothing between here and the kernel needs to see the op."""
    plain = is_plain_eager_cpu(weight, DTYPES)
    return plain and in_lanes(x) and forced() is None and can_use_lanes(x)


def _check_not_empty(x: Tensor, weight: Tensor, stride, padding, dilation) -> None:
    for axis, name in enumerate(("height", "width")):
        reach = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
        if x.shape[2 + axis] + 2 * padding[axis] < reach:
            raise SparselthError(
                f"the kernel reaches over {reach} pixels of {name}, more than the padded input's "
                f"{x.shape[2 + axis] + 2 * padding[axis]}; use more padding or less dilation"
            )
