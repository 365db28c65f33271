"""admm_project_: Z <- Proj(W + U), U <- W + U - Z, in place, over lists of tensors.

Proj keeps the largest of V = W + U (rounded to the tensors' dtype), entries or groups of a pattern,
and clears the rest, so U becomes V where V was cleared and zero where it was kept: no subtraction
is needed. Also, per tensor, the squared residuals |W - Z|^2 and |Z_new - Z_old|^2: float64 sums
in a fixed order, the same bits on every run.

Where some V is NaN or Inf nothing is written at all, and the residuals of the tensors that hold
them are NaN; unless `allow_nonfinite`, when they rank above all else.

The masks are those of `patterns.py`, on values W + U that are added again in each pass and never
stored. Launches: the masks', a table, one for the projection, one for the sums of its chunks.
Traffic per value of b bytes, entries: 2 (b + 1) b and the mask; then 3 b + 1 read and 2 b written.

Reference: Zhang et al., "A Systematic DNN Weight Pruning Framework using Alternating Direction
Method of Multipliers", ECCV 2018, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .patterns import select_by_pattern
from .select import MASK, A, B
from .tables import (
    COUNT,
    FIRST,
    FLOATS,
    addresses,
    find_chunk,
    guard,
    make_table,
    pieces,
    pointer,
    wide,
    word,
    write_back,
)

# --- launch table ---------------------------------------------------------------------------

BLOCK = 1024
SUM_BLOCK = 256  # chunks whose sums are added at once
OPTIONS = {"num_warps": 4}

# --- device code ----------------------------------------------------------------------------
# Columns after FIRST and COUNT: A holds W, B holds U, MASK what is kept.

Z = tl.constexpr(5)


@triton.jit
def refused(nonfinite, segments, ALLOW_NONFINITE: tl.constexpr, SEGMENTS: tl.constexpr):
    if ALLOW_NONFINITE:
        found = False
    else:
        index = tl.arange(0, SEGMENTS)
        found = tl.sum(tl.load(nonfinite + index, index < segments, other=0)) != 0
    return found


@triton.jit(do_not_specialize=["segments", "tiles"])
def project(
    table, segments, tiles, nonfinite, partials, DTYPE: tl.constexpr, ALLOW_NONFINITE: tl.constexpr,
    BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    if not refused(nonfinite, segments, ALLOW_NONFINITE, SEGMENTS):
        w_chunk = pointer(table, segments, A, segment, DTYPE) + begin
        u_chunk = pointer(table, segments, B, segment, DTYPE) + begin
        z_chunk = pointer(table, segments, Z, segment, DTYPE) + begin
        mask = pointer(table, segments, MASK, segment, tl.int8) + begin
        primal = tl.zeros([BLOCK], tl.float64)
        change = tl.zeros([BLOCK], tl.float64)
        for start in range(0, size, BLOCK):
            offsets = start + tl.arange(0, BLOCK)
            valid = offsets < size
            w = tl.load(w_chunk + offsets, valid, other=0)
            u = tl.load(u_chunk + offsets, valid, other=0)
            z_old = tl.load(z_chunk + offsets, valid, other=0)
            kept = tl.load(mask + offsets, valid, other=0) != 0
            v = (wide(w) + wide(u)).to(DTYPE)
            zero = tl.zeros([BLOCK], DTYPE)
            z = tl.where(kept, v, zero)
            tl.store(z_chunk + offsets, z, valid)
            tl.store(u_chunk + offsets, tl.where(kept, zero, v), valid)
            gap = wide(w).to(tl.float64) - wide(z).to(tl.float64)
            step = wide(z).to(tl.float64) - wide(z_old).to(tl.float64)
            primal += gap * gap
            change += step * step
        chunk = tl.program_id(0)
        tl.store(partials + chunk, tl.sum(primal))
        tl.store(partials + tl.num_programs(0) + chunk, tl.sum(change))


@triton.jit(do_not_specialize=["segments", "tiles", "chunks"])
def add_partials(
    table, segments, tiles, nonfinite, partials, chunks, residuals, ALLOW_NONFINITE: tl.constexpr,
    SUM_BLOCK: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """Add the sums of a segment's chunks; a program per segment and residual."""
    segment, which = tl.program_id(0), tl.program_id(1)
    into = residuals + 2 * segment + which
    if refused(nonfinite, segments, ALLOW_NONFINITE, SEGMENTS):
        bad = tl.load(nonfinite + segment) != 0
        tl.store(into, tl.where(bad, float("nan"), 0.0).to(tl.float64))
    else:
        first = word(table, segments, FIRST, segment)
        end = first + tl.cdiv(word(table, segments, COUNT, segment), tiles * BLOCK)
        sums = tl.zeros([SUM_BLOCK], tl.float64)
        for start in range(first, end, SUM_BLOCK):
            index = start + tl.arange(0, SUM_BLOCK)
            sums += tl.load(partials + which * chunks + index, index < end, other=0)
        tl.store(into, tl.sum(sums))


# --- launcher -------------------------------------------------------------------------------


def admm_project_(
    weights: Sequence[Tensor],
    z: Sequence[Tensor],
    u: Sequence[Tensor],
    k: Sequence[int],
    global_: bool,
    pattern: Sequence[int],
    allow_nonfinite: bool,
) -> Tensor:
    """Overwrite z and u; return the residuals, float64 (len(weights), 2): |W - Z|^2, |Z' - Z|^2.

    Arguments as of the op `admm_project_`: lists of equal shapes, of one dtype, on one GPU, copied
    and written back where they are not contiguous.
    """
    device, dtype = weights[0].device, weights[0].dtype
    w_in, z_io, u_io = ([t.contiguous() for t in tensors] for tensors in (weights, z, u))
    sizes = [w.numel() for w in w_in]
    kept = torch.empty(sum(sizes), dtype=torch.bool, device=device)
    masks = pieces(kept, sizes)
    with guard(device):
        nonfinite = select_by_pattern(w_in, u_io, masks, k, global_, pattern)
        columns = [addresses(w_in), addresses(u_io), masks, addresses(z_io)]
        table = make_table(sizes, columns, block=BLOCK, device=device)
        partials = torch.empty((2, table.chunks), dtype=torch.float64, device=device)
        residuals = torch.empty((len(sizes), 2), dtype=torch.float64, device=device)
        if table.chunks:
            project[(table.chunks,)](
                *table.arguments, nonfinite, partials, DTYPE=FLOATS[dtype],
                ALLOW_NONFINITE=allow_nonfinite, **table.constants, **OPTIONS,
            )  # fmt: skip
        add_partials[(len(sizes), 2)](
            *table.arguments, nonfinite, partials, table.chunks, residuals,
            ALLOW_NONFINITE=allow_nonfinite, SUM_BLOCK=SUM_BLOCK, **table.constants, **OPTIONS,
        )  # fmt: skip
        write_back(z, z_io)
        write_back(u, u_io)
    return residuals


# --- registration ---------------------------------------------------------------------------
# `sparselth.ops.backends` finds the launcher by the op's name.
