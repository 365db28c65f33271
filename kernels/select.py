"""Exact selection of the k largest magnitudes, over many tensors at once.

    key     a value's bits without its sign: they order as magnitudes do, Inf above all finite
            values and NaN above Inf. Shifted up by one, so that every bit counts.
    group   one selection: a segment of its own, or (global_) all segments in list order; in
            `weight_overlap` one per segment, side and count asked for (its `lanes`).
    pivot   the k-th largest key of a group. Kept is what lies above it, and of those equal to it
            (ties) the first `keep` in flat order.

Radix selection, most significant digit first: one histogram of 8 bits per digit, in integers, so
the same on every run. A pass begins by reading the digit before it off that one's histogram; all
programs of a group do so, and its first writes it down for the pass after: no kernel in between.
Ties need ranks only where not all of them are kept; then they are counted per chunk, and a program
adds up the counts of the chunks before its own.

Launches: the table, one per digit (2 for 16 bits, 4 for float32, 8 for float64), one for ties, one
by the op. Traffic: each digit and the op's own pass read the values once, the pass over ties only
when ties are cut. NaN and Inf are counted with the first digit.

Reference: Alabi et al., "Fast k-selection algorithms for graphics processing units", 2012.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tables import FIRST, FLOATS, Table, find_chunk, pointer, wide, word

# --- launch table ---------------------------------------------------------------------------

BLOCK = 2048  # values in a tile
# Where no number of registers is named, ptxas spills a few values to fit one more block.
OPTIONS = {"num_warps": 8, "maxnreg": 96}

# --- device code ----------------------------------------------------------------------------
# Columns after FIRST and COUNT. KEEP is the last: it has a word per group.

A = tl.constexpr(2)  # the values; of side 0 in `weight_overlap`
B = tl.constexpr(3)  # what is added to them (SUM), or side 1
MASK = tl.constexpr(4)  # what `write_mask` writes, or (INSIDE) outside of which nothing exists
KEEP = tl.constexpr(5)

BINS = tl.constexpr(256)
STATE = tl.constexpr(3)  # words of a group's state after a digit: leading digits, keep, tied
MANY = tl.constexpr(1024)  # chunks whose ties are added at once


@triton.jit
def keys_of(values):
    if values.dtype == tl.float64:
        keys = values.to(tl.uint64, bitcast=True) << 1
    elif values.dtype == tl.float32:
        keys = values.to(tl.uint32, bitcast=True) << 1
    else:
        keys = (values.to(tl.uint16, bitcast=True) << 1).to(tl.uint32)
    return keys


@triton.jit
def infinity(DTYPE: tl.constexpr):
    bits: tl.constexpr = DTYPE.primitive_bitwidth
    if bits == 64:
        key: tl.constexpr = 0xFFE0000000000000
    elif bits == 32:
        key: tl.constexpr = 0xFF000000
    elif DTYPE.is_bf16():
        key: tl.constexpr = 0xFF00
    else:
        key: tl.constexpr = 0xF800
    return key


@triton.jit
def sources(table, segments, side, segment, begin, DTYPE: tl.constexpr):
    """Return pointers to what a chunk compares, to what is added to it, and to its mask."""
    return (
        pointer(table, segments, A + side, segment, DTYPE) + begin,
        pointer(table, segments, B, segment, DTYPE) + begin,
        pointer(table, segments, MASK, segment, tl.int8) + begin,
    )


@triton.jit
def load_values(values, added, offsets, valid, SUM: tl.constexpr):
    """Return the values that are compared; of a sum, rounded to the tensors' type."""
    found = tl.load(values + offsets, valid, other=0)
    if SUM:
        sums = wide(found) + wide(tl.load(added + offsets, valid, other=0))
        found = sums.to(found.dtype)
    return found


@triton.jit
def load_tile(
    values, added, inside, start, size, SUM: tl.constexpr, INSIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """Return the keys of a tile of a chunk, and which of them exist."""
    offsets = start + tl.arange(0, BLOCK)
    valid = offsets < size
    if INSIDE:
        valid &= tl.load(inside + offsets, valid, other=0) != 0
    return keys_of(load_values(values, added, offsets, valid, SUM)), valid


@triton.jit
def refine(state, bins):
    """Return a group's leading digits, keep and tied, from before a digit and its histogram."""
    digits = tl.load(state)
    keep = tl.load(state + 1)
    index = tl.arange(0, BINS)
    counts = tl.load(bins + BINS - 1 - index)  # from the top
    kept_whole = tl.cumsum(counts, 0) < keep
    passed = tl.sum(kept_whole.to(tl.int32))
    keep -= tl.sum(tl.where(kept_whole, counts, 0))
    tied = tl.sum(tl.where(index == passed, counts, 0))
    # With keep == 0 every digit is 255: no key, even and below that, reaches such a pivot.
    return (digits << 8) | (BINS - 1 - passed), keep, tied


@triton.jit
def refine_and_store(state, bins, groups, group, digit, first):
    """Do so with digit - 1, and let the group's first program write it down for those to come."""
    before = (digit - 1) * groups + group
    leading, keep, tied = refine(state + before * STATE, bins + before * BINS)
    if first:
        after = state + (digit * groups + group) * STATE
        tl.store(after, leading)
        tl.store(after + 1, keep)
        tl.store(after + 2, tied)
    return leading, keep, tied


@triton.jit(do_not_specialize=["segments", "tiles", "asked", "groups", "digit"])
def count_digit(
    table, segments, tiles, state, bins, nonfinite, asked, groups, digit, DTYPE: tl.constexpr,
    SUM: tl.constexpr, INSIDE: tl.constexpr, GLOBAL: tl.constexpr, FIRST_DIGIT: tl.constexpr,
    COUNT_NONFINITE: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    lane = tl.program_id(1)
    side = lane // asked
    group = 0 if GLOBAL else segment * tl.num_programs(1) + lane
    first = (tl.program_id(0) if GLOBAL else begin) == 0
    if FIRST_DIGIT:
        keep = word(table, segments, KEEP, 0 if GLOBAL else segment * asked + lane % asked)
        leading = keep * 0
        if first:
            tl.store(state + group * STATE, leading)
            tl.store(state + group * STATE + 1, keep)
    else:
        leading, keep, _ = refine_and_store(state, bins, groups, group, digit, first)
    shift = DTYPE.primitive_bitwidth - 8 - 8 * digit
    values, added, inside = sources(table, segments, side, segment, begin, DTYPE)
    counts = tl.zeros([BINS], tl.int32)
    bad = 0
    for start in range(0, size, BLOCK):
        keys, valid = load_tile(values, added, inside, start, size, SUM, INSIDE, BLOCK)
        if COUNT_NONFINITE:
            bad += tl.sum((valid & (keys >= infinity(DTYPE))).to(tl.int32))
        rest = keys >> shift.to(keys.dtype)
        matching = valid & ((rest >> 8) == leading.to(keys.dtype))
        counts += tl.histogram((rest & 255).to(tl.int32), BINS, mask=matching)
    index = tl.arange(0, BINS)
    into = bins + (digit * groups + group) * BINS + index
    tl.atomic_add(into, counts.to(tl.int64), mask=counts != 0, sem="relaxed")
    if COUNT_NONFINITE:
        into = nonfinite + side * segments + segment
        tl.atomic_add(into, bad.to(tl.int64), mask=bad != 0, sem="relaxed")


@triton.jit(do_not_specialize=["segments", "tiles", "asked", "groups"])
def count_ties(
    table, segments, tiles, state, bins, ties, asked, groups, DTYPE: tl.constexpr,
    SUM: tl.constexpr, INSIDE: tl.constexpr, GLOBAL: tl.constexpr, BLOCK: tl.constexpr,
    SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    lane = tl.program_id(1)
    group = 0 if GLOBAL else segment * tl.num_programs(1) + lane
    first = (tl.program_id(0) if GLOBAL else begin) == 0
    digits = DTYPE.primitive_bitwidth // 8
    pivot, keep, tied = refine_and_store(state, bins, groups, group, digits, first)
    if keep < tied:
        values, added, inside = sources(table, segments, lane // asked, segment, begin, DTYPE)
        found = 0
        for start in range(0, size, BLOCK):
            keys, valid = load_tile(values, added, inside, start, size, SUM, INSIDE, BLOCK)
            found += tl.sum((valid & (keys == pivot.to(keys.dtype))).to(tl.int32))
        tl.store(ties + lane * tl.num_programs(0) + tl.program_id(0), found)


@triton.jit
def pivot_of(
    table, segments, state, ties, groups, lane, lanes, segment, DTYPE: tl.constexpr,
    GLOBAL: tl.constexpr,
):  # fmt: skip
    """Return a group's pivot and keep, whether ties are cut, and how many lie before this chunk."""
    group = 0 if GLOBAL else segment * lanes + lane
    final = state + (DTYPE.primitive_bitwidth // 8 * groups + group) * STATE
    keep = tl.load(final + 1)
    cut = keep < tl.load(final + 2)
    rank = keep * 0
    if cut:
        chunk = tl.program_id(0)
        first = chunk * 0 if GLOBAL else word(table, segments, FIRST, segment).to(tl.int32)
        ties += lane * tl.num_programs(0)
        for start in range(first, chunk, MANY):
            index = start + tl.arange(0, MANY)
            rank += tl.sum(tl.load(ties + index, index < chunk, other=0).to(tl.int64))
    return tl.load(final), keep, cut, rank


@triton.jit
def kept_of(keys, valid, pivot, keep, cut, rank):
    """Return what is kept of a tile, and the number of ties up to its end; tile after tile."""
    tied = valid & (keys == pivot.to(keys.dtype))
    above = valid & (keys > pivot.to(keys.dtype))
    kept = above | tied
    if cut:
        ordinal = rank + tl.cumsum(tied.to(tl.int32), 0)
        kept = above | (tied & (ordinal <= keep))
        rank += tl.sum(tied.to(tl.int32))
    return kept, rank


@triton.jit(do_not_specialize=["segments", "tiles", "groups"])
def write_mask(
    table, segments, tiles, state, ties, groups, DTYPE: tl.constexpr, SUM: tl.constexpr,
    GLOBAL: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    pivot, keep, cut, rank = pivot_of(
        table, segments, state, ties, groups, 0, 1, segment, DTYPE, GLOBAL
    )
    values, added, mask = sources(table, segments, 0, segment, begin, DTYPE)
    for start in range(0, size, BLOCK):
        keys, valid = load_tile(values, added, mask, start, size, SUM, False, BLOCK)
        kept, rank = kept_of(keys, valid, pivot, keep, cut, rank)
        offsets = start + tl.arange(0, BLOCK)
        tl.store(mask + offsets, kept.to(tl.int8), offsets < size)


# --- launcher -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """A selection whose pivots are known, for the pass that uses them."""

    table: Table
    state: Tensor
    ties: Tensor
    groups: int
    nonfinite: Tensor  # (sides * segments,) int64


def select(
    table: Table,
    dtype: torch.dtype,
    *,
    global_: bool = False,
    add: bool = False,
    inside: bool = False,
    asked: int = 1,
    sides: int = 1,
    nonfinite: Tensor | None = None,
) -> Selection:
    """Queue the search for the pivots of every group of a table with the columns above.

    add: compare A + B.  inside: MASK says what exists.  asked: counts per segment; sides: 2 where B
    is searched like A.  nonfinite: where others have counted NaN and Inf.
    """
    device, lanes, digits = table.words.device, asked * sides, dtype.itemsize
    groups = 1 if global_ else table.segments * lanes
    bins = torch.zeros((digits, groups, BINS.value), dtype=torch.int64, device=device)
    state = torch.empty((digits + 1, groups, STATE.value), dtype=torch.int64, device=device)
    ties = torch.empty((lanes, table.chunks), dtype=torch.int32, device=device)
    counted = nonfinite
    if counted is None:
        counted = torch.zeros(sides * table.segments, dtype=torch.int64, device=device)
    grid = (table.chunks, lanes)
    same = {
        "DTYPE": FLOATS[dtype],
        "SUM": add,
        "INSIDE": inside,
        "GLOBAL": global_,
        **table.constants,
        **OPTIONS,
    }
    if table.chunks:
        for digit in range(digits):
            first = digit == 0
            count_digit[grid](
                *table.arguments, state, bins, counted, asked, groups, digit, FIRST_DIGIT=first,
                COUNT_NONFINITE=first and nonfinite is None, **same,
            )  # fmt: skip
        count_ties[grid](*table.arguments, state, bins, ties, asked, groups, **same)
    return Selection(table, state, ties, groups, counted)


def select_masks(
    table: Table, dtype: torch.dtype, *, global_: bool, add: bool, **options
) -> Tensor:
    """Queue a selection that writes the masks of column MASK; return how many are NaN or Inf."""
    found = select(table, dtype, global_=global_, add=add, **options)
    if table.chunks:
        write_mask[(table.chunks,)](
            *table.arguments, found.state, found.ties, found.groups, DTYPE=FLOATS[dtype], SUM=add,
            GLOBAL=global_, **table.constants, **OPTIONS,
        )  # fmt: skip
    return found.nonfinite
