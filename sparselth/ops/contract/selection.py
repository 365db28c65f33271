"""The ops that select the largest of lists of tensors: schemas and fake kernels."""

from __future__ import annotations

import torch

from .registry import define, fake

SCHEMAS: dict[str, str] = {
    "topk_mask": ("(Tensor[] scores, int[] k, bool global_, int[] pattern) -> (Tensor[], Tensor)"),
    "admm_project_": (
        "(Tensor[] weights, Tensor(a!)[] z, Tensor(b!)[] u, int[] k, bool global_, int[] pattern, "
        "bool allow_nonfinite) -> Tensor"
    ),
    "weight_overlap": "(Tensor[] a, Tensor[] b, Tensor[] masks, int[] k) -> Tensor",
}

define(SCHEMAS)


@fake("topk_mask")
def _(scores, k, global_, pattern):
    """Find the k entries, or groups of a pattern, of largest magnitude.

    mask[l][i] = |scores[l][i]| is among the k largest, ties to the lowest index

    Magnitudes are ranked by their bits: NaN above infinity, infinity above all else. Groups are
    ranked by their sum of squares.

    scores: a list, not empty, of tensors of any shapes, of one dtype (float16, bfloat16, float32
    or float64) and device.
    k: how many entries or groups stay: one count per tensor in [0, its groups], with `global_` one
    for all; none for N:M.
    global_: one selection over all tensors, in list order, instead of one per tensor.
    pattern: what k counts, encoded as in `contract`; [] for single entries.
    Returns masks, bool, contiguous, of the shapes of the scores; and int64 (len(scores),), how
    many values of each are NaN or Inf.

    Reference: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural
    Networks", for magnitude pruning.
    """
    masks = [score.new_empty(score.shape, dtype=torch.bool) for score in scores]
    return masks, scores[0].new_empty(len(scores), dtype=torch.int64)


@fake("admm_project_")
def _(weights, z, u, k, global_, pattern, allow_nonfinite):
    """Do ADMM's projection and dual update, in place.

    V = W + U, rounded to the tensors' dtype;   Z <- Proj(V);   U <- V - Proj(V)

    Proj keeps the k largest as `topk_mask` does and sets the rest to zero: the nearest point, in
    the Euclidean norm, with at most k entries or groups.

    weights: W, a list, not empty, of tensors of any shapes, of one dtype (float16, bfloat16,
    float32 or float64) and device. Read only.
    z, u: lists of the same shapes, dtype and device. Overwritten.
    k, global_, pattern: as for `topk_mask`.
    allow_nonfinite: False writes nothing at all where some V is NaN or Inf, and returns NaN as the
    residuals of the tensors that hold them; True ranks them above all else.
    Returns float64 (len(weights), 2): per tensor the squared primal residual |W - Z|^2 and the
    squared change |Z_new - Z_old|^2.

    Reference: Boyd et al. 2011, "Distributed Optimization and Statistical Learning via the
    Alternating Direction Method of Multipliers", section 3.1.1 (scaled form); Zhang et al. 2018,
    "A Systematic DNN Weight Pruning Framework using Alternating Direction Method of Multipliers".
    """
    return weights[0].new_empty((len(weights), 2), dtype=torch.float64)


@fake("weight_overlap")
def _(a, b, masks, k):
    """Count what two lists of tensors have in common among their largest magnitudes.

    counts[l, j] = |top(a[l], k[l, j]) and top(b[l], k[l, j])|,
    top(t, n): the indices of the n largest magnitudes of t, ties to the lowest index

    a, b: lists, not empty, of tensors of any equal shapes, of one dtype (float16, bfloat16,
    float32 or float64) and device.
    masks: empty, or one bool mask per pair: entries outside it do not exist, NaN and Inf there are
    not seen.
    k: len(a) times as many counts as are asked for, those of a[0] first; each in [0, the tensor's
    size], with masks at most the number inside, which is not checked here.
    Returns int64 (len(a), len(k) / len(a)); -1 in the row of a pair of which either holds NaN or
    Inf.

    Reference: Liu et al. 2021, "Lottery Ticket Preserves Weight Correlation: Is It Desirable or
    Not?", equation 1: the sum of the counts is the numerator of R_p.
    """
    return a[0].new_empty((len(a), len(k) // len(a)), dtype=torch.int64)
