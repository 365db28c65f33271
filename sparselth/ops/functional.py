"""The public functions: arguments checked once, in words, then the op.

`use_backend` is honoured here. With "reference" the functions run the plain PyTorch oracle,
differentiated by PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ..errors import SparselthError, unknown_name
from .backends import implementation
from .checks import (
    NONFINITE,
    as_pair,
    check_aligned,
    check_finite,
    check_mask,
    check_same_length,
    kept_counts,
    named,
    nonfinite_error,
)


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
    plan: Tensor | None = None,
) -> Tensor:
    """Convolve with the weights that the mask keeps: y = conv2d(x, weight * mask) + bias.

    x: (N, C_in, H, W), contiguous or channels_last; the result has the same layout.
    weight: (C_out, C_in / groups, kH, kW).  mask: bool, the weight's shape.
    bias: (C_out,) or None.  plan: `sparselth.ops.plan.conv_plan(mask, groups)`, built anew when
    None. float16 and bfloat16 accumulate in float32.
    Differentiable twice; the weight gradient is exactly zero where the mask is False.
    A pruned weight does not multiply: NaN and Inf in x spread through the kept weights only,
    those that happen to be zero included. `conv2d(x, weight * mask)` spreads them through all.

    Raises SparselthError on mismatched shapes, dtypes or devices.
    """
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
    run = implementation("masked_conv2d", x.device)
    return run(x, weight, mask, bias, plan, *conv)


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
    Differentiable twice; the weight gradient is exactly zero where the mask is False.

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
    if bias is not None and bias.shape != (weight.shape[0],):
        raise SparselthError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    rows = x.reshape(-1, weight.shape[1])
    run = implementation("masked_linear", x.device)
    return run(rows, weight, mask, bias, plan).view(*x.shape[:-1], weight.shape[0])


def topk_mask(
    scores: Tensor | Sequence[Tensor],
    k: int | Sequence[int],
    *,
    allocation: str = "uniform",
    nonfinite: str = "error",
    names: Sequence[str] | None = None,
) -> Tensor | list[Tensor]:
    """Keep exactly k entries of largest magnitude; ties go to the lowest flat index.

    scores: a tensor, or a list of tensors of one dtype and device.
    k: with allocation "uniform" one count per tensor (an int serves every tensor); with "global"
    one count over all tensors in list order; with "given" one count per tensor.
    nonfinite: "error" refuses NaN and Inf; "order" ranks by the magnitude's bits, Inf above all
    finite values and NaN above Inf, and never waits for a GPU.  names: what errors call the
    tensors.
    Returns bool masks, one tensor or a list as given.

    Raises SparselthError on NaN or Inf (naming the tensor), or k outside [0, n].
    """
    single = isinstance(scores, Tensor)
    tensors: list[Tensor] = [scores] if isinstance(scores, Tensor) else list(scores)
    counts, pooled = kept_counts(tensors, k=k, allocation=allocation)
    refuses = _refuses(nonfinite)
    labels = named("scores", len(tensors), names)
    if not tensors:
        return []
    run = implementation("topk_mask", tensors[0].device)
    masks, found = run([t.detach() for t in tensors], counts, pooled)
    if refuses and found.any():
        raise nonfinite_error(labels[int(found.nonzero()[0])])
    return masks[0] if single else masks


def _refuses(nonfinite: str) -> bool:
    if nonfinite not in NONFINITE:
        raise unknown_name("nonfinite", nonfinite, NONFINITE)
    return nonfinite == "error"


@torch.no_grad()
def admm_project_(
    weights: Sequence[Tensor],
    z: Sequence[Tensor],
    u: Sequence[Tensor],
    *,
    sparsity: float | None = None,
    k: int | Sequence[int] | None = None,
    allocation: str = "uniform",
    nonfinite: str = "error",
    names: Sequence[str] | None = None,
) -> Tensor:
    """Do ADMM's projection and dual update in place: Z <- Proj(W + U), U <- U + W - Z.

    weights, z, u: lists of tensors with equal shapes, dtype and device; z and u are overwritten.
    Either `sparsity` in [0, 1) or the exact counts `k`; allocation, nonfinite as in `topk_mask`.
    names: what errors call the weights.
    Returns float64 (len(weights), 2): per tensor |W - Z|^2 and |Z_new - Z_old|^2.

    Raises SparselthError on NaN or Inf in W + U (naming the tensor) and on mismatched lists;
    nothing is written then.

    Reference: Boyd et al. 2011, "Distributed Optimization and Statistical Learning via ADMM",
    section 3.1.1 (scaled form); Zhang et al. 2018, arXiv:1804.03294.
    """
    weights, z, u = list(weights), list(z), list(u)
    check_same_length(weights=weights, z=z, u=u)
    for i, tensors in enumerate(zip(weights, z, u, strict=True)):
        for name, tensor in (("z", tensors[1]), ("u", tensors[2])):
            if tensor.shape != tensors[0].shape:
                raise SparselthError(
                    f"{name}[{i}] has shape {tuple(tensor.shape)}, its weight "
                    f"{tuple(tensors[0].shape)}"
                )
            check_aligned(f"{name}[{i}]", tensor, f"weights[{i}]", tensors[0])
    counts, pooled = kept_counts(weights, sparsity=sparsity, k=k, allocation=allocation)
    refuses = _refuses(nonfinite)
    labels = named("weights", len(weights), names)
    if not weights:
        return torch.empty((0, 2), dtype=torch.float64)
    run = implementation("admm_project_", weights[0].device)
    residuals = run(weights, z, u, counts, pooled, not refuses)
    # A NaN that was in Z before makes the change NaN, not the primal residual.
    if refuses and (refused := residuals[:, 0].isnan()).any():
        worst = int(refused.nonzero()[0])
        check_finite((labels[worst], f"the dual of {labels[worst]}"), (weights[worst], u[worst]))
        raise nonfinite_error(f"the sum of {labels[worst]} and its dual")
    return residuals


@torch.no_grad()
def weight_overlap(
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    k: Sequence[int] | Sequence[Sequence[int]],
    *,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Tensor:
    """Count, per tensor, the indices among the k largest magnitudes of both a[l] and b[l].

    a, b: lists of tensors with equal shapes.  k: one count per tensor, or a list of such lists,
    which share their passes over the tensors.  names: what errors call the tensors of a and of b.
    Returns int64 (len(a),), or (len(k), len(a)). `sparselth.weight_overlap` turns the counts into
    R_p.

    Raises SparselthError on mismatched lists, NaN or Inf, or k outside [0, n].
    """
    a, b = list(a), list(b)
    check_same_length(a=a, b=b)
    for i, (left, right) in enumerate(zip(a, b, strict=True)):
        if left.shape != right.shape:
            raise SparselthError(
                f"a[{i}] has shape {tuple(left.shape)}, b[{i}] {tuple(right.shape)}"
            )
        check_aligned(f"b[{i}]", right, f"a[{i}]", left)
    several = [list(counts) for counts in k if isinstance(counts, Sequence)]
    asked = several or [list(cast(Sequence[int], k))]
    for counts in asked:
        kept_counts(a, k=counts, allocation="given")
    names_a, names_b = names or (None, None)
    labels = [*named("a", len(a), names_a), *named("b", len(b), names_b)]
    if not a:
        return torch.empty((len(several), 0) if several else 0, dtype=torch.int64)
    run = implementation("weight_overlap", a[0].device)
    shared = run(a, b, [count for of_tensor in zip(*asked, strict=True) for count in of_tensor])
    if (shared < 0).any():
        check_finite(labels, [*a, *b])
    return shared.t() if several else shared[:, 0]


@torch.no_grad()
def masked_sgd_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """Take one SGD step on the surviving weights, in place.

    g = grad + weight_decay * w;  v <- momentum * v + (1 - dampening) * g;
    w <- w - lr * (g + momentum * v if nesterov else v).
    Where the mask is False, the weight and its momentum become exactly zero.

    weights, grads, masks: lists of tensors with equal shapes; momenta likewise, or empty when
    momentum is 0.
    """
    weights, grads, momenta, masks = list(weights), list(grads), list(momenta), list(masks)
    check_same_length(weights=weights, grads=grads, masks=masks)
    if momentum != 0:
        check_same_length(weights=weights, momenta=momenta)
    for weight, mask in zip(weights, masks, strict=True):
        check_mask(mask, weight)
    if not weights:
        return
    run = implementation("masked_sgd_", weights[0].device)
    run(weights, grads, momenta, masks, lr, momentum, dampening, weight_decay, nesterov)
