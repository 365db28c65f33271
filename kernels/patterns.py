"""Masks by pattern: groups of weights are scored, selected, and written out as masks.

A weight is seen as contiguous (out, in, taps). `sparselth/ops/contract/` defines the patterns:

    []               entries: `select.py` alone
    [0, r, c, t]     boxes of r outs x c ins x t taps, 0 for the whole axis; score_boxes, selection
                     on the scores, expand
    [1, n, m]        the n largest of every m neighbors along the ins; keep_n_of_m alone
    [2, taps, s...]  in each kernel the taps of its best shape; score_shapes, selection, expand

Scores are float64 sums of squares, added in the contract's order so that every backend finds the
same bits. Squares of float64 are rounded before they are added: kernels with sums are compiled
without fused multiply-add.

Launches: three tables, one for scores, 8 digits, ties, flags, one to expand. Traffic per value of
b bytes: b read for the scores, one byte written; the scores of groups are small beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import select
from .select import A, infinity, keys_of, load_values, select_masks, sources
from .tables import FLOATS, addresses, find_chunk, make_table, pieces, pointer, word

# --- launch table ---------------------------------------------------------------------------

SCORE_TILE = 256  # values in a tile: groups times what is read of each at once
SCORE_OPTIONS = {"num_warps": 4, "maxnreg": 128, "enable_fp_fusion": False}  # see `select.py`
NM_TILE = 1024
EXPAND_BLOCK = 1024
OPTIONS = {"num_warps": 4}

# The first number of a pattern, as in sparselth/ops/patterns.py.
KIND_BLOCKS, KIND_N_OF_M, KIND_KERNEL_SHAPES = 0, 1, 2

# --- device code ----------------------------------------------------------------------------
# Columns after FIRST, COUNT, A and B, which are as in `select.py`.

RESULT = tl.constexpr(4)  # where scores or masks go
CHOSEN = tl.constexpr(5)  # int32 per kernel: the taps of its best shape, as bits
OUTS = tl.constexpr(6)
INS = tl.constexpr(7)
TAPS = tl.constexpr(8)
SHAPES = tl.constexpr(9)  # behind the columns: the dictionary

ONE_NAN = tl.constexpr(0x7FF8000000000000)


@triton.jit
def extents(table, segments, segment):
    return (
        word(table, segments, OUTS, segment),
        word(table, segments, INS, segment),
        word(table, segments, TAPS, segment),
    )


@triton.jit
def sides(outs, ins, taps, r, c, t):
    """Return the extents of a box, 0 being the whole axis."""
    return tl.where(r == 0, outs, r), tl.where(c == 0, ins, c), tl.where(t == 0, taps, t)


@triton.jit
def squares_of(values):
    values = values.to(tl.float64)
    return values * values


@triton.jit
def bits_of(scores):
    """Return the scores' bits, which order as they do; NaN has one pattern only."""
    return tl.where(scores != scores, ONE_NAN, scores.to(tl.int64, bitcast=True))


@triton.jit
def nonfinite_of(values, valid, DTYPE: tl.constexpr):
    return (valid & (keys_of(values) >= infinity(DTYPE))).to(tl.int32)


@triton.jit
def add_nonfinite(nonfinite, segment, bad):
    total = tl.sum(tl.ravel(bad))
    if total != 0:
        tl.atomic_add(nonfinite + segment, total.to(tl.int64), sem="relaxed")


@triton.jit
def add_in_halves(partial, BLOCK: tl.constexpr, LANES: tl.constexpr, HALVINGS: tl.constexpr):
    """Add the lanes of (BLOCK, LANES): i and i + LANES / 2, and so on."""
    for step in tl.static_range(HALVINGS):
        halves = tl.reshape(partial, (BLOCK, 2, LANES >> (step + 1)))
        first, second = tl.split(tl.permute(halves, (0, 2, 1)))
        partial = first + second
    return tl.reshape(partial, (BLOCK,))


@triton.jit(do_not_specialize=["segments", "tiles", "r", "c", "t"])
def score_boxes(
    table, segments, tiles, nonfinite, r, c, t, DTYPE: tl.constexpr, SUM: tl.constexpr,
    LANES: tl.constexpr, HALVINGS: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    # LANES: 32, or fewer where boxes have no more ins; the partial sums left out would be zeros.
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    outs, ins, taps = extents(table, segments, segment)
    side_out, side_in, side_tap = sides(outs, ins, taps, r, c, t)
    along_in, along_tap = tl.cdiv(ins, side_in), tl.cdiv(taps, side_tap)
    index = tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)[None, :]
    box = begin + index
    first_out = box // (along_in * along_tap) * side_out
    first_in = box // along_tap % along_in * side_in
    first_tap = box % along_tap * side_tap
    # Boxes at the far edges end early, those beyond the chunk at once.
    outs_left = tl.minimum(outs - first_out, side_out).to(tl.int32)[:, None]
    ins_left = tl.minimum(ins - first_in, side_in).to(tl.int32)[:, None]
    taps_left = tl.minimum(taps - first_tap, side_tap).to(tl.int32)
    taps_left = tl.where(index < size, taps_left, 0)[:, None]
    place = ((first_out * ins + first_in) * taps + first_tap)[:, None] + lane * taps
    values, added, _ = sources(table, segments, 0, segment, 0, DTYPE)
    total = tl.zeros([BLOCK], tl.float64)
    bad = tl.zeros([BLOCK, LANES], tl.int32)
    for tap in range(side_tap.to(tl.int32)):
        partial = tl.zeros([BLOCK, LANES], tl.float64)
        for step in range(0, side_in.to(tl.int32), LANES):
            column = tl.zeros([BLOCK, LANES], tl.float64)
            there = (tap < taps_left) & (step + lane < ins_left)
            for out in tl.range(side_out.to(tl.int32), loop_unroll_factor=4):
                valid = there & (out < outs_left)
                offsets = place + ((out * ins + step) * taps + tap)
                found = load_values(values, added, offsets, valid, SUM)
                bad += nonfinite_of(found, valid, DTYPE)
                column += squares_of(found)
            partial += column
        total += add_in_halves(partial, BLOCK, LANES, HALVINGS)
    scores = pointer(table, segments, RESULT, segment, tl.int64) + begin
    tl.store(scores + index, bits_of(total), index < size)
    add_nonfinite(nonfinite, segment, bad)


@triton.jit(do_not_specialize=["segments", "tiles", "n", "m"])
def keep_n_of_m(
    table, segments, tiles, nonfinite, n, m, DTYPE: tl.constexpr, SUM: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    _, ins, taps = extents(table, segments, segment)
    along_in = tl.cdiv(ins, m.to(tl.int64))
    index = tl.arange(0, BLOCK)[:, None]
    group = begin + index
    first_in = group // taps % along_in * m
    place = (group // (along_in * taps) * ins + first_in) * taps + group % taps
    lane = tl.arange(0, LANES)[None, :]
    valid = (index < size) & (lane < m) & (first_in + lane < ins)
    offsets = place + lane * taps
    values, added, _ = sources(table, segments, 0, segment, 0, DTYPE)
    found = load_values(values, added, offsets, valid, SUM)
    keys = keys_of(found)
    rank = tl.zeros([BLOCK, LANES], tl.int32)
    for rival in range(m):
        there = (index < size) & (first_in + rival < ins)
        other = keys_of(load_values(values, added, place + rival * taps, there, SUM))
        rank += (there & ((other > keys) | ((other == keys) & (rival < lane)))).to(tl.int32)
    mask = pointer(table, segments, RESULT, segment, tl.int8)
    tl.store(mask + offsets, (rank < n).to(tl.int8), valid)
    add_nonfinite(nonfinite, segment, nonfinite_of(found, valid, DTYPE))


@triton.jit(do_not_specialize=["segments", "tiles", "kernel_taps", "count"])
def score_shapes(
    table, segments, tiles, nonfinite, kernel_taps, count, DTYPE: tl.constexpr, SUM: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    _, _, taps = extents(table, segments, segment)
    index = tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    shapes = tl.load(table + SHAPES * segments + lane, lane < count, other=0)
    shapes = tl.where(taps == kernel_taps, shapes, -1).to(tl.int32)  # other kernels: every tap
    values, added, _ = sources(table, segments, 0, segment, begin * taps, DTYPE)
    totals = tl.zeros([BLOCK, LANES], tl.float64)
    bad = tl.zeros([BLOCK], tl.int32)
    for tap in range(taps.to(tl.int32)):
        found = load_values(values, added, index * taps + tap, index < size, SUM)
        bad += nonfinite_of(found, index < size, DTYPE)
        has = ((shapes >> tl.minimum(tap, 31)) & 1)[None, :] != 0
        totals = tl.where(has, totals + squares_of(found)[:, None], totals)
    bits = bits_of(totals)
    best = tl.max(bits, 1)
    first = tl.min(tl.where(bits == best[:, None], lane[None, :], LANES), 1)
    chosen = tl.sum(tl.where(first[:, None] == lane[None, :], shapes[None, :], 0), 1)
    scores = pointer(table, segments, RESULT, segment, tl.int64) + begin
    tl.store(scores + index, best, index < size)
    tl.store(
        pointer(table, segments, CHOSEN, segment, tl.int32) + begin + index, chosen, index < size
    )
    add_nonfinite(nonfinite, segment, bad)


@triton.jit(do_not_specialize=["segments", "tiles", "r", "c", "t"])
def expand(
    table, segments, tiles, r, c, t, SHAPED: tl.constexpr, BLOCK: tl.constexpr,
    SEGMENTS: tl.constexpr,
):  # fmt: skip
    """Write entries' masks from which groups (A) are kept, and which of their taps (CHOSEN)."""
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    outs, ins, taps = extents(table, segments, segment)
    side_out, side_in, side_tap = sides(outs, ins, taps, r, c, t)
    along_in, along_tap = tl.cdiv(ins, side_in), tl.cdiv(taps, side_tap)
    kept_groups = pointer(table, segments, A, segment, tl.int8)
    mask = pointer(table, segments, RESULT, segment, tl.int8)
    for start in range(0, size, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        valid = offsets < size
        entry = begin + offsets
        tap, kernel = entry % taps, entry // taps
        if SHAPED:
            kept = tl.load(kept_groups + kernel, valid, other=0)
            chosen = pointer(table, segments, CHOSEN, segment, tl.int32)
            shape = tl.load(chosen + kernel, valid, other=0)
            kept &= ((shape >> tl.minimum(tap, 31).to(tl.int32)) & 1).to(tl.int8)
        else:
            box = (kernel // ins // side_out * along_in + kernel % ins // side_in) * along_tap
            kept = tl.load(kept_groups + box + tap // side_tap, valid, other=0)
        tl.store(mask + entry, kept, valid)


# --- launcher -------------------------------------------------------------------------------


def select_by_pattern(
    values: Sequence[Tensor],
    added: Sequence[Tensor] | None,
    masks: Sequence[int],
    k: Sequence[int],
    global_: bool,
    pattern: Sequence[int],
) -> Tensor:
    """Write masks of the largest values, or sums; return int64: how many are NaN or Inf.

    values, added: contiguous.  masks: addresses of as many bools each.
    """
    dtype, device, add = values[0].dtype, values[0].device, added is not None
    sources = [addresses(values), addresses(added or values)]
    sizes = [v.numel() for v in values]
    if not pattern:
        columns = [*sources, masks]
        table = make_table(sizes, columns, tail=k, block=select.BLOCK, device=device)
        return select_masks(table, dtype, global_=global_, add=add)
    nonfinite = torch.zeros(len(values), dtype=torch.int64, device=device)
    extents = [axes(v.shape) for v in values]
    if pattern[0] == KIND_N_OF_M:
        _n_of_m(
            sources, masks, extents, pattern[1:], nonfinite, {"DTYPE": FLOATS[dtype], "SUM": add}
        )
        return nonfinite
    groups = score_groups(values, added, pattern, nonfinite)
    counts, kept = groups.counts, torch.empty_like(groups.scores, dtype=torch.bool)
    found, flags = pieces(groups.scores, counts), pieces(kept, counts)
    table = make_table(counts, [found, found, flags], tail=k, block=select.BLOCK, device=device)
    select_masks(table, torch.float64, global_=global_, add=False, nonfinite=nonfinite)
    columns = [flags, flags, masks, pieces(groups.chosen, counts), *zip(*extents, strict=True)]
    table = make_table(sizes, columns, block=EXPAND_BLOCK, device=device)
    shaped = pattern[0] == KIND_KERNEL_SHAPES
    if table.chunks:
        expand[(table.chunks,)](
            *table.arguments, *((1, 1, 0) if shaped else pattern[1:]), SHAPED=shaped,
            **table.constants, **OPTIONS,
        )  # fmt: skip
    return nonfinite


@dataclass(frozen=True)
class Groups:
    """The groups of all tensors, in list order."""

    counts: list[int]  # per tensor
    scores: Tensor  # float64
    chosen: Tensor  # int32, the taps of each kernel's best shape as bits; of boxes not written


def score_groups(
    values: Sequence[Tensor],
    added: Sequence[Tensor] | None,
    pattern: Sequence[int],
    nonfinite: Tensor,
) -> Groups:
    """Score boxes or kernels, and add to `nonfinite` how many values are NaN or Inf."""
    kind, *settings = pattern
    extents = [axes(v.shape) for v in values]
    counts = [_boxes(e, settings) if kind == KIND_BLOCKS else _kernels(e) for e in extents]
    scores = torch.empty(sum(counts), dtype=torch.float64, device=nonfinite.device)
    groups = Groups(counts, scores, torch.empty_like(scores, dtype=torch.int32))
    columns = [
        *(addresses(values), addresses(added or values)),
        *(pieces(scores, counts), pieces(groups.chosen, counts), *zip(*extents, strict=True)),
    ]
    same = {"DTYPE": FLOATS[values[0].dtype], "SUM": added is not None}
    (_score_boxes if kind == KIND_BLOCKS else _score_shapes)(
        columns, counts, extents, settings, nonfinite, same
    )
    return groups


def axes(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return a weight's (out, in, taps)."""
    return (shape[0] if shape else 1, shape[1] if len(shape) > 1 else 1, prod(shape[2:]))


def _boxes(extents: tuple[int, int, int], box: Sequence[int]) -> int:
    if prod(extents) == 0:
        return 0
    return prod(-(-n // (side or n)) for n, side in zip(extents, box, strict=True))


def _kernels(extents: tuple[int, int, int]) -> int:
    return extents[0] * extents[1] if extents[2] else 0


def _score_boxes(columns, counts, extents, box, nonfinite, same) -> None:
    widest = box[1] or max(ins for _, ins, _ in extents)
    lanes = min(32, triton.next_power_of_2(max(1, widest)))
    block = SCORE_TILE // lanes
    table = make_table(counts, columns, tiles=1, block=block, device=nonfinite.device)
    if table.chunks:
        score_boxes[(table.chunks,)](
            *table.arguments, nonfinite, *box, LANES=lanes, HALVINGS=lanes.bit_length() - 1,
            **table.constants, **SCORE_OPTIONS, **same,
        )  # fmt: skip


def _score_shapes(columns, counts, extents, settings, nonfinite, same) -> None:
    taps, *shapes = settings
    lanes = triton.next_power_of_2(len(shapes))
    block = SCORE_TILE // lanes
    table = make_table(counts, columns, tail=shapes, tiles=1, block=block, device=nonfinite.device)
    if table.chunks:
        score_shapes[(table.chunks,)](
            *table.arguments, nonfinite, taps, len(shapes), LANES=lanes,
            **table.constants, **SCORE_OPTIONS, **same,
        )  # fmt: skip


def _n_of_m(sources, masks, extents, settings, nonfinite, same) -> None:
    n, m = settings
    lanes = triton.next_power_of_2(m)
    block = NM_TILE // lanes
    counts = [outs * -(-ins // m) * taps for outs, ins, taps in extents]
    columns = [*sources, masks, masks, *zip(*extents, strict=True)]
    table = make_table(counts, columns, tiles=1, block=block, device=nonfinite.device)
    if table.chunks:
        keep_n_of_m[(table.chunks,)](
            *table.arguments, nonfinite, n, m, LANES=lanes, **table.constants, **OPTIONS,
            **same,
        )  # fmt: skip
