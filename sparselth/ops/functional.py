"""The public layers and the steps: arguments checked once, in words, then the op.

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
from .backends import forced, implementation
from .blocked import accepts, traceless
from .blocked_conv import BlockedConv2d
from .blocked_tensor import BlockedTensor
from .checks import (
    as_pair,
    check_aligned,
    check_floating,
    check_list,
    check_lists,
    check_mask,
    check_same_length,
    same_padding,
)
from .transforms import transformed


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
        y = BlockedConv2d.apply(x, weight, mask, bias, plan, *conv)
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
    if bias.shape != (weight.shape[0],):
        raise SparselthError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    check_aligned("bias", bias, "weight", weight)


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
    check_floating("x", x)
    check_floating("weight", weight)
    x, weight, bias = autocast(x, weight, bias)
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
        raise SparselthError(f"weight must be (C_out, C_in), got shape {tuple(weight.shape)}")
    check_mask(mask, weight)
    check_aligned("x", x, "weight", weight)
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise SparselthError(
            f"x must end in {weight.shape[1]} features, got shape {tuple(x.shape)}"
        )
    _check_bias(bias, weight)


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
    lists = {"weights": list(weights), "grads": list(grads)}
    if momentum != 0:
        lists["momenta"] = list(momenta)
    also = _check_step(lists, list(masks), list(z), list(u), rho)
    if not lists["weights"]:
        return
    run = implementation("masked_sgd_", lists["weights"][0].device)
    settings = (lr, momentum, dampening, weight_decay, nesterov, rho)
    run(lists["weights"], lists["grads"], lists.get("momenta", []), *also, *settings)


@torch.no_grad()
def masked_adamw_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    masks: Sequence[Tensor],
    z: Sequence[Tensor] = (),
    u: Sequence[Tensor] = (),
    *,
    step: int | Sequence[Tensor],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    rho: float = 0.0,
) -> None:
    """Take one AdamW step on the surviving weights, in place.

    g = grad + rho * (w - z + u);
    m <- beta1 * m + (1 - beta1) * g;  v <- beta2 * v + (1 - beta2) * g^2;
    w <- (1 - lr * weight_decay) * w
         - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps).
    Where the mask is False, the weight and both its moments become exactly zero. ADMM's pull is
    part of the loss's gradient and goes through the moments; the weight decay does not.

    weights, grads, exp_avgs (m), exp_avg_sqs (v): lists of tensors with equal shapes, of one dtype;
    16-bit ones are computed in float32 and rounded once. masks, or empty when every weight
    survives; z and u, ADMM's, or empty when rho is 0. step: which step this is, counted from 1; or
    a float32 scalar for each weight, on its device, which on a GPU nobody waits for.

    Raises SparselthError on mismatched lists, shapes, dtypes or devices, and where step or betas
    would divide by zero.

    Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
    algorithm 2; its schedule multiplier is part of lr here, as in torch.optim.AdamW.
    """
    lists = {"weights": list(weights), "grads": list(grads)}
    lists |= {"exp_avgs": list(exp_avgs), "exp_avg_sqs": list(exp_avg_sqs)}
    also = _check_step(lists, list(masks), list(z), list(u), rho)
    if not all(0 <= beta < 1 for beta in betas):
        raise SparselthError(f"betas must be in [0, 1), got {betas}")
    if isinstance(step, int):
        counts: tuple[list[Tensor], int] = ([], step)
        if step < 1:
            raise SparselthError(f"step counts from 1, got {step}")
    else:
        counts = (list(step), 0)
        check_same_length(weights=lists["weights"], step=counts[0])
        for weight, count in zip(lists["weights"], counts[0], strict=True):
            if (count.shape, count.dtype, count.device) != ((), torch.float32, weight.device):
                raise SparselthError(
                    f"step must be float32 scalars on {weight.device}, the weights' device, got "
                    f"{count.dtype} of shape {tuple(count.shape)} on {count.device}"
                )
    if not lists["weights"]:
        return
    run = implementation("masked_adamw_", lists["weights"][0].device)
    run(*lists.values(), *also, *counts, lr, *betas, eps, weight_decay, rho)


def _check_step(
    lists: dict[str, list[Tensor]],
    masks: list[Tensor],
    z: list[Tensor],
    u: list[Tensor],
    rho: float,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Check what an optimizer's step is given; return masks, z and u as the ops take them."""
    z, u = (z, u) if rho != 0 else ([], [])
    check_lists(**lists, **({"z": z, "u": u} if rho != 0 else {}))
    weights = lists["weights"]
    check_list(weights)
    if masks:
        check_same_length(weights=weights, masks=masks)
        for weight, mask in zip(weights, masks, strict=True):
            check_mask(mask, weight)
    return masks, z, u
