"""An experiment: the block-sparse forward with its input fetched by the tensor memory accelerator.

    y[n, p, q, o] = sum over kept (i, r, s) of x[n, p - ph + r, q - pw + s, i] w[o, i, r, s]

As `kernels/masked_conv2d.py`, at stride 1, but a program computes a rectangle of output positions
of one image, so that the piece of the input that a block meets is a box: one copy of a 4-D tensor
descriptor, without addresses, its padding filled in with zeros by the hardware. The blocks of the
weight come by a second descriptor. For sm_90 and later; 16 bits, or float32 in the interpreter.

Whether it is faster than the gathering kernel is what `first_light.py` finds out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from sparselth.kernels.blocks import BlockIndex, Walk, forward_walk
from sparselth.kernels.masked_conv2d import pack
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

# --- launch table ---------------------------------------------------------------------------

# Height and width of a rectangle, warps, stages.
CONFIGURATIONS = ((8, 16, 4, 4), (8, 16, 8, 4), (16, 16, 8, 3))

# --- device code ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["tiles_h", "tiles_w", "out_h", "out_w"])
def correlate_boxes(
    x_boxes, blocks, y, rows, entries, tiles_h, tiles_w, out_h, out_w, y_image, y_row, y_column,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Compute a rectangle of one block of outputs. Programs that share x follow each other."""
    row = rows + tl.program_id(0) * 5
    begin, end, first_out = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    tile = tl.program_id(1)
    top = tile // tiles_w % tiles_h * TILE_H
    left = tile % tiles_w * TILE_W
    image = tile // (tiles_w * tiles_h)

    total = tl.zeros([TILE_H * TILE_W, SIZE], tl.float32)
    # The copies of one turn need its entry's numbers; read a turn ahead, or nothing is pipelined.
    # The list has one entry more than is walked.
    entry = entries + begin * 4
    channel, down, right = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    slot = tl.load(entry + 3)
    for i in tl.range(begin, end):
        box = x_boxes.load([image, top + down, left + right, channel])
        block = blocks.load([slot * SIZE, 0])
        entry = entries + (i + 1) * 4
        channel, down, right = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
        slot = tl.load(entry + 3)
        total = tl.dot(box.reshape(TILE_H * TILE_W, SIZE), block, total)

    place = tl.arange(0, TILE_H * TILE_W)
    p, q = top + place // TILE_W, left + place % TILE_W
    to = y + image.to(tl.int64) * y_image + p * y_row + q * y_column
    out = first_out + tl.arange(0, SIZE)
    there = (p < out_h) & (q < out_w)
    tl.store(to[:, None] + out[None, :], total.to(y.dtype.element_ty), there[:, None])


# --- launcher -------------------------------------------------------------------------------


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    index: BlockIndex,
    padding: int,
    tile_h: int,
    tile_w: int,
    warps: int,
    stages: int,
) -> Tensor:
    """Return y, channels_last. x: (N, C_in, H, W), channels_last; C_in and C_out of whole blocks.

    index: the mask's blocks, of 16 to 64.  tile_h, tile_w: of powers of two.
    """
    c_out, c_in, k_h, k_w = index.shape
    if index.groups != 1 or c_out % index.size or c_in % index.size:
        raise ValueError(f"needs whole blocks of {index.size} and no groups, got {index.shape}")
    batch, _, height, width = x.shape
    out_h, out_w = height + 2 * padding - k_h + 1, width + 2 * padding - k_w + 1
    y = torch.empty(
        (batch, c_out, out_h, out_w),
        dtype=x.dtype, device=x.device, memory_format=torch.channels_last,
    )  # fmt: skip
    walk = walk_of(index, (out_h, out_w), padding)
    packed = pack(weight, mask, index).view(-1, index.size)
    boxes = TensorDescriptor.from_tensor(x.permute(0, 2, 3, 1), [1, tile_h, tile_w, index.size])
    blocks = TensorDescriptor.from_tensor(packed, [index.size, index.size])
    tiles_h, tiles_w = triton.cdiv(out_h, tile_h), triton.cdiv(out_w, tile_w)
    y_image, _, y_row, y_column = y.stride()
    correlate_boxes[(len(walk.rows), batch * tiles_h * tiles_w)](
        boxes, blocks, y, walk.rows, walk.entries, tiles_h, tiles_w, out_h, out_w,
        y_image, y_row, y_column,
        TILE_H=tile_h, TILE_W=tile_w, SIZE=index.size, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return y


def walk_of(index: BlockIndex, out_hw: tuple[int, int], padding: int) -> Walk:
    """Return the walk of the forward, with one entry behind the last, which is read in vain."""
    key = ("boxes", out_hw, padding)
    if key not in index.walks:
        (walk,) = forward_walk(index, out_hw, (1, 1), (padding, padding), (1, 1))
        longer = torch.cat([walk.entries, walk.entries.new_zeros(1, 4)])
        index.walks[key] = [walk._replace(entries=longer)]
    return index.walks[key][0]
