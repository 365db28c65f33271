"""The ops that select the largest of lists of tensors: schemas and fake kernels."""

from __future__ import annotations

import torch

from .registry import define, fake

SCHEMAS: dict[str, str] = {
    # Magnitudes are ranked by their bits: NaN above infinity, infinity above all else.
    #
    # Masks of the k largest entries or groups; int64 (len(scores),): how many are NaN or Inf.
    "topk_mask": ("(Tensor[] scores, int[] k, bool global_, int[] pattern) -> (Tensor[], Tensor)"),
    # Z <- Proj(W + U); U <- W + U - Z. Returns float64 (len(weights), 2): per tensor the squared
    # primal residual |W - Z|^2 and the squared change |Z_new - Z_old|^2. Where some W + U is NaN or
    # Inf nothing is written, and the residuals of the tensors that hold them are NaN, unless
    # `allow_nonfinite`.
    "admm_project_": (
        "(Tensor[] weights, Tensor(a!)[] z, Tensor(b!)[] u, int[] k, bool global_, int[] pattern, "
        "bool allow_nonfinite) -> Tensor"
    ),
    # k: len(a) times as many counts as are asked for, those of a[0] first. int64 (len(a), asked):
    # how many of the k largest magnitudes of a[l] and of b[l] coincide; -1 where either holds NaN
    # or Inf. `masks` is empty, or holds one mask per pair: entries outside it do not exist, NaN and
    # Inf there are not seen, and k is at most the number inside.
    "weight_overlap": "(Tensor[] a, Tensor[] b, Tensor[] masks, int[] k) -> Tensor",
}

define(SCHEMAS)


@fake("topk_mask")
def _(scores, k, global_, pattern):
    masks = [score.new_empty(score.shape, dtype=torch.bool) for score in scores]
    return masks, scores[0].new_empty(len(scores), dtype=torch.int64)


@fake("admm_project_")
def _(weights, z, u, k, global_, pattern, allow_nonfinite):
    return weights[0].new_empty((len(weights), 2), dtype=torch.float64)


@fake("weight_overlap")
def _(a, b, masks, k):
    return a[0].new_empty((len(a), len(k) // len(a)), dtype=torch.int64)
