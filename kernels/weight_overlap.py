"""weight_overlap: per tensor pair, how many of the k largest magnitudes of a and of b coincide.

One selection (`select.py`) with two sides: the segments are the pairs, column A the tensors a,
column B the tensors b; every pair is searched for each of its counts, on both sides. With masks
only what they keep exists. Integer counts: exact. The counts of a pair with NaN or Inf are -1.

Launches: the selection's and one more. Traffic per pair of values of b bytes and count asked for:
2 (b + 1) b read.

Reference: Liu et al., "Lottery Ticket Preserves Weight Correlation: Is It Desirable or Not?",
ICML 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .select import BLOCK, OPTIONS, kept_of, load_tile, pivot_of, select, sources
from .tables import FLOATS, addresses, find_chunk, guard, make_table

# --- launch table: that of the selection ----------------------------------------------------

# --- device code ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["segments", "tiles", "groups"])
def count_common(
    table, segments, tiles, state, ties, groups, nonfinite, counts, DTYPE: tl.constexpr,
    INSIDE: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    lane, asked = tl.program_id(1), tl.num_programs(1)
    into = counts + segment * asked + lane
    bad = tl.load(nonfinite + segment) + tl.load(nonfinite + segments + segment)
    if bad != 0:
        if begin == 0:
            tl.store(into, -1)
    else:
        a_pivot, a_keep, a_cut, a_rank = pivot_of(
            table, segments, state, ties, groups, lane, 2 * asked, segment, DTYPE, False
        )
        b_pivot, b_keep, b_cut, b_rank = pivot_of(
            table, segments, state, ties, groups, asked + lane, 2 * asked, segment, DTYPE, False
        )
        a_values, _, inside = sources(table, segments, 0, segment, begin, DTYPE)
        b_values, _, _ = sources(table, segments, 1, segment, begin, DTYPE)
        common = 0
        for start in range(0, size, BLOCK):
            a, valid = load_tile(a_values, a_values, inside, start, size, False, INSIDE, BLOCK)
            b, valid = load_tile(b_values, b_values, inside, start, size, False, INSIDE, BLOCK)
            of_a, a_rank = kept_of(a, valid, a_pivot, a_keep, a_cut, a_rank)
            of_b, b_rank = kept_of(b, valid, b_pivot, b_keep, b_cut, b_rank)
            common += tl.sum((of_a & of_b).to(tl.int32))
        tl.atomic_add(into, common.to(tl.int64), sem="relaxed")


# --- launcher -------------------------------------------------------------------------------


def weight_overlap(
    a: Sequence[Tensor], b: Sequence[Tensor], masks: Sequence[Tensor], k: Sequence[int]
) -> Tensor:
    """Return the counts, int64 (len(a), len(k) / len(a)); -1 in the row of a pair with NaN or Inf.

    Arguments as of the op `weight_overlap`: a and b of one dtype, on one GPU; masks bool, or empty;
    k with the counts of a[0] first.
    """
    device, dtype, asked = a[0].device, a[0].dtype, len(k) // len(a)
    inputs = [[t.contiguous() for t in tensors] for tensors in (a, b, masks or a)]
    columns = [addresses(tensors) for tensors in inputs]
    sizes = [t.numel() for t in a]
    with guard(device):
        table = make_table(sizes, columns, tail=k, block=BLOCK, device=device)
        found = select(table, dtype, inside=bool(masks), asked=asked, sides=2)
        counts = torch.zeros((len(a), asked), dtype=torch.int64, device=device)
        if table.chunks and asked:
            count_common[(table.chunks, asked)](
                *table.arguments, found.state, found.ties, found.groups, found.nonfinite, counts,
                DTYPE=FLOATS[dtype], INSIDE=bool(masks), **table.constants, **OPTIONS,
            )  # fmt: skip
    return counts


# --- registration ---------------------------------------------------------------------------
# `sparselth.ops.backends` finds the launcher by the op's name.
