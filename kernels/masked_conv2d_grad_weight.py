"""masked_conv2d_grad_weight: the weight gradient of the blocks that the mask keeps.

    dw[o, i, r, s] = sum over n, p, q of
                     dy[n, p, q, o] x[n, p sh - ph + r dh, q sw - pw + s dw, i]     where kept

A program sums one block over one of SPLITS runs of output positions; a second kernel adds the runs
up in a fixed order, rounds once and stores what the mask keeps, and zeros all over the weight. How
many runs there are depends on the problem alone, so that the result is the same on every GPU of a
kind and in every run.

Cost: 2 size^2 operations for each listed block and output position. Types: see `masked_conv2d.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .blocks import BlockIndex
from .masked_conv2d import (
    MOST_32_BIT,
    by_tap,
    channels_last,
    is_whole,
    precision,
)
from .tables import guard

# --- launch table ---------------------------------------------------------------------------

# Size of blocks -> output positions summed at a time, and how the kernel is compiled.
BLOCK_K = {16: 128, 32: 64, 64: 64}
OPTIONS = {
    16: {"num_warps": 2, "num_stages": 3},
    32: {"num_warps": 4, "num_stages": 4},
    64: {"num_warps": 4, "num_stages": 3},
}

# Programs enough to fill the largest GPU a few times, and the least work worth a run.
MOST_PROGRAMS = 1024
LEAST_STEPS = 8

# Values of a block that a program adds up, of so many runs at a time, and its warps.
PIECE, RUNS_AT_ONCE, ADDING_WARPS = 512, 8, 4

# --- device code ----------------------------------------------------------------------------


SIZES = ["taps_w", "c_in", "outs_per_group", "positions", "per_split", "height", "width"]
GEOMETRY = ["stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"]


@triton.jit(do_not_specialize=[*SIZES, *GEOMETRY, "out_height", "out_width"])
def sum_blocks(
    x, dy, blocks, partial, outs, ins, taps_w, c_in, outs_per_group, positions, per_split,
    height, width, x_image, x_row, x_column, out_height, out_width, dy_image, dy_row, dy_column,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    WHOLE: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    SIZE: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sum block program_id(0) over the positions of run program_id(1).

    outs, ins: which channel stands at a place, or None for its own number; see `blocks.Orders`.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    group, tap = tl.load(blocks + 4 * block), tl.load(blocks + 4 * block + 3)
    lane = tl.arange(0, SIZE)
    first_out, first_in = tl.load(blocks + 4 * block + 1), tl.load(blocks + 4 * block + 2)
    first_channel = group * c_in + first_in
    if WHOLE:  # so that 16 bytes are loaded at a time
        first_out, first_channel = tl.multiple_of(first_out, 16), tl.multiple_of(first_channel, 16)
    out, inside, channel = first_out + lane, first_in + lane, first_channel + lane
    dy_there, x_there = out < (group + 1) * outs_per_group, inside < c_in
    if outs is not None:
        out = tl.load(outs + out, dy_there, other=0)
    if ins is not None:
        channel = tl.load(ins + channel, x_there, other=0)
    shift_h = tap // taps_w * dilation_h - pad_h
    shift_w = tap % taps_w * dilation_w - pad_w

    total = tl.zeros([SIZE, SIZE], tl.float32)
    begin = split * per_split
    for start in range(begin, min(begin + per_split, positions), BLOCK_K):
        # Counted on from step to step instead of divided, they spill: up to 864 bytes a thread.
        position = start + tl.arange(0, BLOCK_K)
        real = position < positions
        image = position // (out_height * out_width)
        p, q = position // out_width % out_height, position % out_width
        if WIDE:
            image = image.to(tl.int64)
        h, w = p * stride_h + shift_h, q * stride_w + shift_w
        valid = real & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        out_there, in_there = real[:, None], valid[:, None]
        if not WHOLE:
            out_there &= dy_there[None, :]
            in_there &= x_there[None, :]
        at = dy + image * dy_image + p * dy_row + q * dy_column
        grad = tl.load(at[:, None] + out[None, :], out_there, other=0)
        at = x + image * x_image + h * x_row + w * x_column
        piece = tl.load(at[:, None] + channel[None, :], in_there, other=0)
        total = tl.dot(tl.trans(grad), piece, total, input_precision=PRECISION)
    place = lane[:, None] * SIZE + lane[None, :]
    # 32 bits will do: there are few runs, or one of no more values than a weight has.
    tl.store(partial + (split * tl.num_programs(0) + block) * SIZE * SIZE + place, total)


COUNTS = ["splits", "count", "c_in", "outs_per_group", "out_blocks", "in_blocks", "taps"]


@triton.jit(do_not_specialize=COUNTS)
def add_splits(
    partial, mask, slots, dw, outs, ins, splits, count, c_in, outs_per_group,
    out_blocks, in_blocks, taps, m_out, m_in, m_tap,
    SIZE: tl.constexpr, PIECE: tl.constexpr, RUNS: tl.constexpr,
):  # fmt: skip
    """Add piece program_id(1) of block program_id(0) up, and store it where the mask keeps.

    Every block of the weight has its program, also those that are not listed: they become zero.
    count: listed blocks.  outs, ins: as in `sum_blocks`.
    """
    block = tl.program_id(0)
    slot = tl.load(slots + block)
    tap, rest = block % taps, block // taps
    first_in, rest = rest % in_blocks * SIZE, rest // in_blocks
    first_out, group = rest % out_blocks * SIZE, rest // out_blocks

    place = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    run = tl.arange(0, RUNS)
    total = tl.zeros([PIECE], tl.float32)
    # Not listed: no runs.
    for first in range(0, tl.where(slot >= 0, splits, 0), RUNS):
        at = ((first + run) * count + slot) * SIZE * SIZE
        values = tl.load(
            partial + at[:, None] + place[None, :], (first + run < splits)[:, None], other=0
        )
        total += tl.sum(values, 0)
    inside = first_in + place % SIZE
    within = first_out + place // SIZE
    out_there, in_there = within < outs_per_group, inside < c_in
    there = out_there & in_there
    out = group * outs_per_group + within
    if outs is not None:
        out = tl.load(outs + out, out_there, other=0)
    if ins is not None:
        inside = tl.load(ins + inside, in_there, other=0)
    out = out.to(tl.int64)
    kept = tl.load(mask + out * m_out + inside * m_in + tap * m_tap, there & (slot >= 0), other=0)
    total = tl.where(kept != 0, total, 0.0)
    tl.store(dw + (out * c_in + inside) * taps + tap, total.to(dw.dtype.element_ty), there)


# --- launcher -------------------------------------------------------------------------------


def splits_of(blocks: int, positions: int, block_k: int) -> tuple[int, int]:
    """Return how many runs the positions are cut into, and how many positions a run has.

    blocks: listed in the index.  positions: N H_out W_out.  block_k: positions summed at a time.
    """
    steps = triton.cdiv(positions, block_k)
    splits = max(1, min(MOST_PROGRAMS // max(blocks, 1), steps // LEAST_STEPS))
    per_split = triton.cdiv(steps, splits) * block_k
    return triton.cdiv(positions, per_split), per_split


def masked_conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, mask: Tensor, index: BlockIndex, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    """Return dw (C_out, C_in / groups, kH, kW), contiguous, exactly zero where the mask prunes.

    grad_output: dy (N, C_out, H_out, W_out).  input: x (N, C_in, H, W), its dtype. Both on a GPU;
    converted where they are not channels_last.
    mask, index, stride, padding, dilation: the forward's, see `masked_conv2d.py`.
    """
    positions = grad_output.numel() // max(grad_output.shape[1], 1)
    blocks, size = len(index.host), index.size
    if blocks == 0 or positions == 0:
        return input.new_zeros(index.shape)
    dw = input.new_empty(index.shape)
    c_out, c_in, kernel_h, kernel_w = index.shape
    outs, block_k = c_out // index.groups, BLOCK_K[size]
    piece = min(PIECE, size * size)
    splits, per_split = splits_of(blocks, positions, block_k)
    mask, m_strides = by_tap(mask)
    with guard(input.device):
        x, dy = channels_last(input), channels_last(grad_output)
        partial = torch.empty(splits, blocks, size, size, device=x.device)
        x_image, _, x_row, x_column = x.stride()
        dy_image, _, dy_row, dy_column = dy.stride()
        sum_blocks[(blocks, splits)](
            x, dy, index.blocks, partial, *index.orders, kernel_w, c_in, outs, positions, per_split,
            *x.shape[2:], x_image, x_row, x_column, *dy.shape[2:], dy_image, dy_row, dy_column,
            *stride, *padding, *dilation, WHOLE=is_whole(index),
            WIDE=max(x.numel(), dy.numel()) > MOST_32_BIT, PRECISION=precision(x.dtype), SIZE=size,
            BLOCK_K=block_k, **OPTIONS[size],
        )  # fmt: skip
        add_splits[(index.slots.numel(), size * size // piece)](
            partial, mask.view(torch.uint8), index.slots, dw, *index.orders, splits, blocks, c_in,
            outs, triton.cdiv(outs, size), triton.cdiv(c_in, size), kernel_h * kernel_w, *m_strides,
            SIZE=size, PIECE=piece, RUNS=RUNS_AT_ONCE, num_warps=ADDING_WARPS,
        )  # fmt: skip
    return dw
