"""The public layers and the step: arguments checked once, in words, then the op.

`use_backend` is honoured here. With "reference" the functions run the plain PyTorch oracle,
differentiated by PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SparselthError
from .backends import forced, implementation
from .blocked import accepts, traceless
from .blocked_conv import BlockedConv2d
from .blocked_tensor import BlockedTensor
from .checks import as_pair, check_aligned, check_lists, check_mask, check_same_length


def autocast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Return tensors as `torch.autocast` would hand them to a convolution on the device of `x`."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
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
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    relu: bool = False,
    plan: Tensor | None = None,
) -> Tensor:
    """Convolve with the weights that the mask keeps: y = conv2d(x, weight * mask) + bias.

    x: (N, C_in, H, W), contiguous or channels_last; the result has the same layout.
    weight: (C_out, C_in / groups, kH, kW).  mask: bool, the weight's shape.
    bias: (C_out,) or None.  relu: return max(y, 0); a GPU's kernel of blocks does that before it
    stores y, all others in a pass of their own.
    plan: `sparselth.ops.plan.conv_plan(mask, groups)`, built anew when None.
    float16 and bfloat16 accumulate in float32.
    Differentiable twice; the weight gradient is exactly zero where the mask is False.
    A pruned weight does not multiply: NaN and Inf in x spread through the kept weights only,
    those that happen to be zero included. `conv2d(x, weight * mask)` spreads them through all, and
    on a GPU a kernel does through those of a block that keeps any.

    Under `torch.autocast` x, weight and bias are cast as for `conv2d`.

    Raises SparselthError on mismatched shapes, dtypes or devices.
    """
    x, weight, bias = autocast(x, weight, bias)
    if x.dim() != 4:
        raise SparselthError(f"x must be (N, C_in, H, W), got shape {tuple(x.shape)}")
    if weight.dim() != 4:
        raise SparselthError(
            f"weight must be (C_out, C_in/groups, kH, kW), got shape {tuple(weight.shape)}"
        )
    check_mask(mask, weight)
    check_aligned("x", x, "weight", weight)
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise SparselthError(
            f"channels do not fit: x has {x.shape[1]}, weight {tuple(weight.shape)} with "
            f"groups={groups} takes {weight.shape[1] * groups} and needs C_out divisible by groups"
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise SparselthError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    conv = (
        as_pair("stride", stride, 1),
        as_pair("padding", padding, 0),
        as_pair("dilation", dilation, 1),
        groups,
    )
    _check_not_empty(x, weight, *conv[:3])
    if not torch.compiler.is_compiling() and _direct(x, weight):
        y = BlockedConv2d.apply(x, weight, mask, bias, plan, *conv)
    elif relu and x.device.type == "cuda":
        return implementation("masked_conv2d_relu", x.device)(x, weight, mask, bias, plan, *conv)
    else:
        y = implementation("masked_conv2d", x.device)(x, weight, mask, bias, plan, *conv)
    return y.relu() if relu else y


def _direct(x: Tensor, weight: Tensor) -> bool:
    """Tell whether x is in blocks and nothing between here and the kernel needs to see the op."""
    blocked = isinstance(x, BlockedTensor) and x.is_blocked()
    return blocked and forced() is None and accepts(x) and traceless(weight)


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

    x: (..., C_in).  weight: (C_out, C_in).  mask: bool, the weight's shape.  bias: (C_out,).
    Differentiable twice; the weight gradient is exactly zero where the mask is False. Under
    `torch.autocast` x, weight and bias are cast as for `linear`.

    Raises SparselthError on mismatched shapes, dtypes or devices.
    """
    x, weight, bias = autocast(x, weight, bias)
    if weight.dim() != 2:
        raise SparselthError(f"weight must be (C_out, C_in), got shape {tuple(weight.shape)}")
    check_mask(mask, weight)
    check_aligned("x", x, "weight", weight)
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise SparselthError(
            f"x must end in {weight.shape[1]} features, got shape {tuple(x.shape)}"
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise SparselthError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    rows = x.reshape(-1, weight.shape[1])
    run = implementation("masked_linear", x.device)
    return run(rows, weight, mask, bias, plan).view(*x.shape[:-1], weight.shape[0])


@torch.no_grad()
def masked_sgd_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    masks: Sequence[Tensor],
    z: Sequence[Tensor] = (),
    u: Sequence[Tensor] = (),
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    rho: float = 0.0,
) -> None:
    """Take one SGD step on the surviving weights, in place.

    g = grad + weight_decay * w + rho * (w - z + u);  v <- momentum * v + (1 - dampening) * g;
    w <- w - lr * (g + momentum * v if nesterov else v).
    Where the mask is False, the weight and its momentum become exactly zero.

    weights, grads: lists of tensors with equal shapes. momenta likewise, or empty when momentum
    is 0; masks, or empty when every weight survives; z and u, ADMM's, or empty when rho is 0.

    Raises SparselthError on mismatched lists, shapes, dtypes or devices.
    """
    weights, grads, momenta, masks = list(weights), list(grads), list(momenta), list(masks)
    z, u = list(z), list(u)
    lists = {"weights": weights, "grads": grads}
    if momentum != 0:
        lists["momenta"] = momenta
    if rho != 0:
        lists |= {"z": z, "u": u}
    check_lists(**lists)
    if masks:
        check_same_length(weights=weights, masks=masks)
        for weight, mask in zip(weights, masks, strict=True):
            check_mask(mask, weight)
    if not weights:
        return
    run = implementation("masked_sgd_", weights[0].device)
    momenta = momenta if momentum != 0 else []
    pair = (z, u) if rho != 0 else ([], [])
    settings = (lr, momentum, dampening, weight_decay, nesterov, rho)
    run(weights, grads, momenta, masks, *pair, *settings)
