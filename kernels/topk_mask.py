"""topk_mask: mask[i] = |score[i]| is among the k largest, ties to the lowest index.

Lists of tensors, one selection per tensor or one over all (global_), of entries or of the groups of
a pattern. See `select.py` and `patterns.py`, which hold the device code.
Traffic per value of b bytes: (b + 1) b read for entries, 1 byte written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .patterns import select_by_pattern
from .tables import addresses, guard

# --- launcher -------------------------------------------------------------------------------


def topk_mask(
    scores: Sequence[Tensor], k: Sequence[int], global_: bool, pattern: Sequence[int]
) -> tuple[list[Tensor], Tensor]:
    """Return bool masks of the scores' shapes, and int64 (len(scores),): how many are NaN or Inf.

    Arguments as of the op `topk_mask`: scores of one dtype, on one GPU, copied where they are not
    contiguous; k, global_ and pattern as `sparselth/ops/contract/` encodes them.
    """
    masks = [torch.empty(score.shape, dtype=torch.bool, device=score.device) for score in scores]
    values = [score.contiguous() for score in scores]
    with guard(scores[0].device):
        nonfinite = select_by_pattern(values, None, addresses(masks), k, global_, pattern)
    return masks, nonfinite


# --- registration ---------------------------------------------------------------------------
# `sparselth.ops.backends` finds the launcher by the op's name.
