"""masked_conv2d: convolution with the blocks of the weight that the mask keeps.

    y[n, p, q, o] = bias[o] + sum over kept (i, r, s) of
                    x[n, p sh - ph + r dh, q sw - pw + s dw, i] w[o, i, r, s]

An implicit GEMM on channels_last activations: a program computes BLOCK_M output positions of one
block of output channels, and walks that row's blocks of the weight (`blocks.py`): each is one
product of a gathered BLOCK_M x size piece of the input with a packed size x size piece of the
weight. Rows that are longest start first; those without a block get the bias alone. Where channels
have an order they are gathered from x and scattered to y by it: filters and channels that are
pruned as a whole are left out without another pass over activations. float16, bfloat16 and float32,
summed in float32; float32 multiplies in TF32 where cuDNN would
(`torch.backends.cudnn.conv.fp32_precision`).

Cost: 2 BLOCK_M size^2 operations for each listed block and tile of positions, whatever is pruned
inside it. The input is read once for each block that touches it, from the caches if all is well.

Reference: Gale et al., "MegaBlocks", MLSys 2023, for block-sparse products walked by a transposed
index in the backward pass; Chetlur et al., "cuDNN", 2014, for the implicit GEMM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .blocks import BlockIndex, Walk, forward_walk
from .tables import FLOATS, guard

# --- launch table ---------------------------------------------------------------------------

# Size of blocks -> output positions of a program, and how it is compiled.
BLOCK_M = {16: 128, 32: 128, 64: 128}
# A limit on registers keeps ptxas from spilling a few bytes for an occupancy of its own choice.
OPTIONS = {
    16: {"num_warps": 4, "num_stages": 4, "maxnreg": 128},
    32: {"num_warps": 4, "num_stages": 4, "maxnreg": 208},
    64: {"num_warps": 8, "num_stages": 3, "maxnreg": 224},
}

# The same where channels of x are gathered: a value at a time, a thread has more positions in hand.
GATHERED_M = {16: 64, 32: 64, 64: 64}
GATHERED_OPTIONS = {
    16: {"num_warps": 4, "num_stages": 4, "maxnreg": 128},
    32: {"num_warps": 8, "num_stages": 4, "maxnreg": 208},
    64: {"num_warps": 8, "num_stages": 3, "maxnreg": 240},
}

# For kernels in which a program handles the values of one block and no positions.
WHOLE_BLOCK_WARPS = {16: 4, 32: 4, 64: 8}

# Beyond as many values, offsets into an activation take 64 bits.
MOST_32_BIT = 2**31 - 1

# --- device code ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["c_in", "outs_per_group"])
def pack_blocks(
    weight, mask, blocks, packed, outs, ins, c_in, outs_per_group, w_out, w_in, w_tap,
    m_out, m_in, m_tap, SIZE: tl.constexpr,
):  # fmt: skip
    """Copy block `program` to packed[program, in, out], zero where the mask prunes.

    outs, ins: which channel stands at a place, or None for its own number; see `blocks.Orders`.
    """
    block = tl.program_id(0)
    group = tl.load(blocks + 4 * block)
    out = tl.load(blocks + 4 * block + 1) + tl.arange(0, SIZE)[None, :]
    inside = tl.load(blocks + 4 * block + 2) + tl.arange(0, SIZE)[:, None]
    tap = tl.load(blocks + 4 * block + 3)
    out_there, in_there = out < (group + 1) * outs_per_group, inside < c_in
    there = out_there & in_there
    if outs is not None:
        out = tl.load(outs + out, out_there, other=0)
    if ins is not None:
        inside = tl.load(ins + inside, in_there, other=0)
    at = out.to(tl.int64) * m_out + inside * m_in + tap * m_tap
    kept = tl.load(mask + at, there, other=0) != 0
    at = out.to(tl.int64) * w_out + inside * w_in + tap * w_tap
    values = tl.load(weight + at, there & kept, other=0)
    place = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(packed + block.to(tl.int64) * SIZE * SIZE + place, values)


# Of the numbers only strides are worth a kernel for those that are multiples of 16.
SIZES = ["row_count", "positions", "height", "width", "in_step_h", "in_step_w"]


@triton.jit(do_not_specialize=[*SIZES, "out_height", "out_width"])
def correlate(
    x, packed, bias, y, rows, entries, x_order, y_order, row_count, positions,
    height, width, x_image, x_row, x_column, in_step_h, in_step_w,
    out_height, out_width, y_image, y_row, y_column,
    HAS_BIAS: tl.constexpr, RELU: tl.constexpr, TRANSPOSED: tl.constexpr, WHOLE: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Compute one tile. TRANSPOSED: packed blocks are read as [out, in]. WHOLE: see `is_whole`.

    x_order, y_order: which channel stands at a place, or None for its own number.
    """
    row = rows + tl.program_id(0) % row_count * 5
    begin, end, first_out = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    out_end, in_end = tl.load(row + 3), tl.load(row + 4)

    position = tl.program_id(0) // row_count * BLOCK_M + tl.arange(0, BLOCK_M)
    real = position < positions
    image = position // (out_height * out_width)
    p, q = position // out_width % out_height, position % out_width
    h, w = p * in_step_h, q * in_step_w
    if WIDE:
        image = image.to(tl.int64)
    from_image = x + image * x_image

    lane = tl.arange(0, SIZE)
    if TRANSPOSED:
        place = lane[None, :] * SIZE + lane[:, None]
    else:
        place = lane[:, None] * SIZE + lane[None, :]
    total = tl.zeros([BLOCK_M, SIZE], tl.float32)
    for i in range(begin, end):
        entry = entries + 4 * i
        first_in = tl.load(entry)
        if WHOLE:  # said here, as a function of its own would not hand it on
            first_in = tl.multiple_of(first_in, 16)
        channel = first_in + lane
        row_of_x, column_of_x = h + tl.load(entry + 1), w + tl.load(entry + 2)
        slot = tl.load(entry + 3).to(tl.int64)
        inside = (row_of_x >= 0) & (row_of_x < height) & (column_of_x >= 0) & (column_of_x < width)
        at = from_image + row_of_x * x_row + column_of_x * x_column
        there = (real & inside)[:, None]
        if not WHOLE:
            there &= (channel < in_end)[None, :]
        if x_order is not None:
            channel = tl.load(x_order + channel, channel < in_end, other=0)
        piece = tl.load(at[:, None] + channel[None, :], there, other=0)
        block = tl.load(packed + slot * SIZE * SIZE + place)
        total = tl.dot(piece, block, total, input_precision=PRECISION)

    if WHOLE:
        first_out = tl.multiple_of(first_out, 16)
    out = first_out + lane
    out_there = out < out_end
    if y_order is not None:
        out = tl.load(y_order + out, out_there, other=0)
    if HAS_BIAS:
        total += tl.load(bias + out, out_there, other=0).to(tl.float32)[None, :]
    if RELU:
        total = tl.where(total < 0, 0, total)  # NaN stays, as in torch
    to = y + image * y_image + p * y_row + q * y_column
    stored = real[:, None]
    if not WHOLE:
        stored &= out_there[None, :]
    tl.store(to[:, None] + out[None, :], total.to(y.dtype.element_ty), stored)


# --- launcher -------------------------------------------------------------------------------


def precision(dtype: torch.dtype) -> str:
    """Return how products of this type are computed, "tf32" or "ieee": as cuDNN would."""
    tf32 = dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"
    return "tf32" if tf32 else "ieee"


def is_whole(index: BlockIndex) -> bool:
    """Say whether every block has all its channels, so that none begins at an odd place."""
    c_out, c_in, *_ = index.shape
    return c_out // index.groups % index.size == 0 and c_in % index.size == 0


def by_tap(weight: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Return a weight or mask and its strides over outs, ins and taps; contiguous if need be.

    weight: (C_out, C_in / groups, kH, kW). It stays as it is where one stride serves all taps.
    """
    out, inside, row, tap = weight.stride()
    if row != weight.shape[3] * tap:
        weight = weight.contiguous()
        out, inside, _, tap = weight.stride()
    return weight, (out, inside, tap)


def pack(weight: Tensor, mask: Tensor, index: BlockIndex) -> Tensor:
    """Return the kept weights as (blocks, in, out), zeros where the mask prunes.

    weight, mask: (C_out, C_in / groups, kH, kW).  index: the mask's blocks, of which there is one
    size x size piece each, in their order.
    """
    (weight, w_strides), (mask, m_strides) = by_tap(weight), by_tap(mask)
    packed = weight.new_empty(len(index.host), index.size, index.size)
    if not len(packed):
        return packed
    with guard(weight.device):
        pack_blocks[(len(packed),)](
            weight, mask.view(torch.uint8), index.blocks, packed, *index.orders, index.shape[1],
            index.shape[0] // index.groups, *w_strides, *m_strides, SIZE=index.size,
            num_warps=WHOLE_BLOCK_WARPS[index.size],
        )  # fmt: skip
    return packed


def run_walks(
    x: Tensor, packed: Tensor, bias: Tensor | None, y: Tensor, walks: Sequence[Walk],
    index: BlockIndex, *, transposed: bool, relu: bool = False,
) -> None:  # fmt: skip
    """Fill y from x; both channels_last, every position of y in one of the walks.

    x: (N, channels summed over, H, W).  y: (N, channels of the result, H', W').
    packed: (blocks, size, size), of `pack`.  bias: (channels of the result,), or None.
    walks: the phases of the pass, see `blocks.Walk`.  index: the mask's blocks.
    transposed: packed blocks are read as [out, in], as the input gradient does.
    relu: store max(y, 0).
    """
    size, (outs, ins) = index.size, index.orders
    x_order, y_order = (outs, ins) if transposed else (ins, outs)
    gathered = x_order is not None
    block_m = (GATHERED_M if gathered else BLOCK_M)[size]
    options = (GATHERED_OPTIONS if gathered else OPTIONS)[size]
    x_image, _, x_row, x_column = x.stride()
    y_image, _, y_row, y_column = y.stride()
    for walk in walks:
        positions = y.shape[0] * walk.size[0] * walk.size[1]
        tiles = triton.cdiv(positions, block_m)
        if tiles * len(walk.rows) == 0:
            continue
        first = y[:, :, walk.first[0] :, walk.first[1] :]
        correlate[(tiles * len(walk.rows),)](
            x, packed, bias, first, walk.rows, walk.entries, x_order, y_order, len(walk.rows),
            positions, *x.shape[2:], x_image, x_row, x_column, *walk.in_step,
            *walk.size, y_image, y_row * walk.step[0], y_column * walk.step[1],
            HAS_BIAS=bias is not None, RELU=relu, TRANSPOSED=transposed, WHOLE=is_whole(index),
            WIDE=max(x.numel(), y.numel()) > MOST_32_BIT, PRECISION=precision(x.dtype),
            SIZE=size, BLOCK_M=block_m, **options,
        )  # fmt: skip


def channels_last(images: Tensor) -> Tensor:
    """Return images whose channels are neighbors in memory."""
    images = images.contiguous(memory_format=torch.channels_last)
    if images.stride(1) == 1 or images.shape[1] == 1:
        return images
    # Of one pixel, both layouts count as contiguous.
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def serves(dtype: torch.dtype) -> bool:
    """Say whether the kernels compute in this type."""
    return dtype in FLOATS and dtype != torch.float64


def masked_conv2d(
    input: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, index: BlockIndex,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], *, relu: bool = False,
    packed: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return y = conv2d(x, w * mask) + bias, or max(y, 0): (N, C_out, H_out, W_out), channels_last.

    input: x (N, C_in, H, W) of a type that `serves`, on a GPU, contiguous or channels_last; the
    former is converted.
    weight, mask (bool): (C_out, C_in / groups, kH, kW), of any strides.  bias: (C_out,), or None.
    index: the blocks of this very mask, which also know the groups: `blocks.find_blocks`.
    stride, padding, dilation: [height, width] in pixels.
    packed: the weight's blocks, of `pack`; packed here when None.
    Nothing is checked here: `sparselth/ops/contract/arguments.py` does it before.
    """
    batch, _, height, width = input.shape
    kernel = index.shape[2:]
    p, q = (
        (n + 2 * pad - dilated * (k - 1) - 1) // step + 1
        for n, pad, dilated, k, step in zip(
            (height, width), padding, dilation, kernel, stride, strict=True
        )
    )
    y = input.new_empty(batch, index.shape[0], p, q)
    y = torch.empty_like(y, memory_format=torch.channels_last)
    walk = forward_walk(index, (p, q), *(tuple(pair) for pair in (stride, padding, dilation)))
    with guard(input.device):
        x = channels_last(input)
        packed = pack(weight, mask, index) if packed is None else packed
        run_walks(x, packed, bias, y, walk, index, transposed=False, relu=relu)
    return y
