"""The public functions over lists of tensors that select the largest: checked once, then the op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ..checks import check_name
from ..errors import SparselthError
from .backends import implementation
from .checks import (
    NONFINITE,
    check_finite,
    check_lists,
    check_mask,
    check_same_length,
    kept_counts,
    named,
    nonfinite_error,
    tensor_list,
)
from .patterns import Pattern, find_pattern
from .reference import apply_mask


def topk_mask(
    scores: Tensor | Sequence[Tensor],
    k: int | Sequence[int] | None = None,
    *,
    allocation: str = "uniform",
    pattern: str | Pattern = "element",
    nonfinite: str = "error",
    names: Sequence[str] | None = None,
) -> Tensor | list[Tensor]:
    """Keep exactly k entries of largest magnitude, or groups of the largest sum of squares.

    Ties go to the lowest index.
    scores: a tensor of any shape, or a list of tensors, of one dtype (float16, bfloat16, float32 or
    float64) and device.
    k: with allocation "uniform" one count per tensor (an int serves every tensor); with "global"
    one count over all tensors in list order; with "given" one count per tensor. None for N:M, and
    for kernel shapes that drop no kernel.
    allocation: "uniform", "global" or "given", see k.
    pattern: what k counts: a name of `sparselth.ops.patterns.find_pattern`, such as "16x1",
    "filter" or "2:4", or one of that module's patterns.
    nonfinite: "error" refuses NaN and Inf; "order" ranks by the magnitude's bits, Inf above all
    finite values and NaN above Inf, and never waits for a GPU.
    names: what errors call the tensors; scores[0], scores[1], ... when None.
    Returns bool masks of the scores' shapes, contiguous, True where kept: one tensor or a list, as
    given.

    Raises SparselthError on NaN or Inf (naming the tensor), k outside [0, n], lists of several
    dtypes or devices, or an unknown name.

    Reference: Han et al. 2015, arXiv:1506.02626, for magnitude pruning.
    """
    single = isinstance(scores, Tensor)
    tensors: list[Tensor] = (
        [scores] if isinstance(scores, Tensor) else tensor_list("scores", scores)
    )
    groups = find_pattern(pattern)
    counts, global_ = kept_counts(tensors, k=k, allocation=allocation, pattern=groups)
    refuses = _refuses(nonfinite)
    labels = named("scores", len(tensors), names)
    if not tensors:
        return []
    run = implementation("topk_mask", tensors[0].device)
    masks, nonfinite_counts = run([t.detach() for t in tensors], counts, global_, groups.encode())
    if refuses and nonfinite_counts.any():
        raise nonfinite_error(labels[int(nonfinite_counts.nonzero()[0])])
    return masks[0] if single else masks


def _refuses(nonfinite: str) -> bool:
    check_name("nonfinite", nonfinite, NONFINITE)
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
    pattern: str | Pattern = "element",
    nonfinite: str = "error",
    names: Sequence[str] | None = None,
) -> Tensor:
    """Do ADMM's projection and dual update in place: Z <- Proj(W + U), U <- U + W - Z.

    weights, z, u: lists of tensors of any equal shapes, of one dtype (float16, bfloat16, float32 or
    float64) and device; z and u are overwritten, weights only read.
    sparsity: the share to prune, a fraction in [0, 1): of groups, or of weights with kernel shapes.
    Or k: the exact counts that stay. Neither for N:M, and for kernel shapes that drop no kernel.
    allocation, pattern, nonfinite: as in `topk_mask`. With each pattern Proj is the Euclidean
    projection: what is kept has the largest sum of squares.
    names: what errors call the weights.
    Returns float64 (len(weights), 2): per tensor |W - Z|^2 and |Z_new - Z_old|^2.

    Raises SparselthError on NaN or Inf in W + U (naming the tensor), on mismatched lists, and
    unless just one of sparsity and k is given where one is needed; nothing is written then.

    Reference: Boyd et al. 2011, "Distributed Optimization and Statistical Learning via ADMM",
    section 3.1.1 (scaled form); Zhang et al. 2018, arXiv:1804.03294.
    """
    weights = tensor_list("weights", weights)
    z, u = tensor_list("z", z), tensor_list("u", u)
    check_lists(weights=weights, z=z, u=u)
    groups = find_pattern(pattern)
    counts, global_ = kept_counts(
        weights, sparsity=sparsity, k=k, allocation=allocation, pattern=groups
    )
    refuses = _refuses(nonfinite)
    labels = named("weights", len(weights), names)
    if not weights:
        return torch.empty((0, 2), dtype=torch.float64, device="cpu")
    run = implementation("admm_project_", weights[0].device)
    residuals = run(weights, z, u, counts, global_, groups.encode(), not refuses)
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
    masks: Sequence[Tensor] | None = None,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Tensor:
    """Count, per tensor, the indices among the k largest magnitudes of both a[l] and b[l].

    Ties go to the lowest index.
    a, b: lists of tensors of any equal shapes, of one dtype (float16, bfloat16, float32 or float64)
    and device.
    k: one count per tensor, or a list of such lists, which share their passes over the tensors.
    masks: one bool mask per pair; entries outside it are never among the largest, whatever they
    hold, and k is at most the number inside.
    names: what errors call the tensors of a and of b.
    Returns int64 (len(a),), or (len(k), len(a)). `sparselth.weight_overlap` turns the counts into
    R_p.

    Raises SparselthError on mismatched lists, NaN or Inf (naming the tensor), or k outside [0, n].

    Reference: Liu et al. 2021, arXiv:2102.11068, equation 1: the numerator of R_p, by layer.
    """
    a, b = tensor_list("a", a), tensor_list("b", b)
    if not isinstance(k, Sequence) or isinstance(k, str):
        raise SparselthError(f"k must be a list of counts, got {k!r}")
    check_lists(a=a, b=b)
    several = [list(counts) for counts in k if isinstance(counts, Sequence)]
    asked = several or [list(cast(Sequence[int], k))]
    for counts in asked:
        kept_counts(a, k=counts, allocation="given")
    if masks is not None:
        masks = tensor_list("masks", masks)
        _check_masks_of_overlap(a, masks, asked)
    names_a, names_b = names or (None, None)
    labels = [*named("a", len(a), names_a), *named("b", len(b), names_b)]
    if not a:
        return torch.empty((len(several), 0) if several else 0, dtype=torch.int64, device="cpu")
    run = implementation("weight_overlap", a[0].device)
    inside = [] if masks is None else list(masks)
    k_by_tensor = [count for of_tensor in zip(*asked, strict=True) for count in of_tensor]
    shared = run(a, b, inside, k_by_tensor)
    if (shared < 0).any():
        counted = [*a, *b]
        if inside:
            counted = [apply_mask(*pair) for pair in zip(counted, 2 * inside, strict=True)]
        check_finite(labels, counted)
    return shared.t() if several else shared[:, 0]


def _check_masks_of_overlap(a: list[Tensor], masks: Sequence[Tensor], asked) -> None:
    check_same_length(a=a, masks=masks)
    for tensor, mask in zip(a, masks, strict=True):
        check_mask(mask, tensor)
    for i, inside in enumerate(
        torch.stack([mask.count_nonzero() for mask in masks]).tolist() if a else []
    ):
        if (most := max(counts[i] for counts in asked)) > inside:
            raise SparselthError(f"k of tensor {i} is {most}, but its mask keeps {inside} entries")
