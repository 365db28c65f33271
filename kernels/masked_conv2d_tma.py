"""masked_conv2d and its input gradient at stride 1, the pixels copied by the hardware (TMA).

    y[n, p, q, o] = bias[o] + sum over kept (i, r, s) of
                    x[n, p - ph + r dh, q - pw + s dw, i] w[o, i, r, s]

and the input gradient, which is the same of dy, with o and i exchanged, the taps turned around and
a padding of d (k - 1) - p. Channels_last activations of 16 bits; sums in float32.

A program computes a rectangle of 256 output positions, of one image or several, for one row of
blocks (`wide_blocks.py`), up to 128 channels of the result. The pixels that a block meets are a
box of the input: one copy of a tensor descriptor brings it to shared memory, no register and no
address taking part, with zeros where it lies in the padding. So does another with the block, packed
beforehand. Copies run ahead of the products. Needs compute capability 9.0, and channels in whole
groups of 8, as a descriptor's strides are multiples of 16 bytes.

Cost: 512 depth width operations for each listed block and tile of positions, whatever is pruned
inside it. From the caches come 512 depth bytes of pixels and 2 depth width of weights for them:
29 operations a byte in blocks of 32 x 32, 51 in 64 x 64, 85 in 32 x 128.

Reference: NVIDIA, "CUDA C++ Programming Guide", asynchronous data copies by the Tensor Memory
Accelerator; Chetlur et al., "cuDNN", 2014, for the implicit GEMM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .masked_conv2d import by_tap, channels_last
from .tables import guard
from .wide_blocks import WideBlocks, WidePass

# --- launch table ---------------------------------------------------------------------------

# Depth and width of blocks -> how the kernel is compiled.
OPTIONS = {
    (16, 16): {"num_warps": 8, "num_stages": 4},
    (32, 32): {"num_warps": 8, "num_stages": 4},
    (64, 64): {"num_warps": 8, "num_stages": 3},
    (16, 128): {"num_warps": 8, "num_stages": 4},
    (32, 128): {"num_warps": 8, "num_stages": 4},
    (64, 128): {"num_warps": 8, "num_stages": 3},
}

# Images, height and width of a program's 256 positions. A compiled kernel is of one of them.
TILES = ((1, 16, 16), (4, 8, 8), (16, 4, 4), (8, 2, 16), (32, 1, 8), (1, 1, 256))

# Packed values of a program for each warp.
PACKED_PER_WARP = 1024

# --- device code ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["forward_count", "c_out", "c_in", "taps_h", "taps_w"])
def pack_wide_blocks(
    weight, mask, forward_blocks, backward_blocks, packed, forward_count, c_out, c_in,
    taps_h, taps_w, w_out, w_in, w_tap, m_out, m_in, m_tap,
    DEPTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Copy block `program` to packed[program, summed, result], zero where the mask prunes.

    The forward's come first, then those of the input gradient, whose results are inputs.
    """
    program = tl.program_id(0)
    turned = program >= forward_count
    block = forward_blocks + 4 * program
    if turned:
        block = backward_blocks + 4 * (program - forward_count)
    result = tl.load(block) + tl.arange(0, WIDTH)[None, :]
    summed = tl.load(block + 1) + tl.arange(0, DEPTH)[:, None]
    tap = tl.load(block + 2) * taps_w + tl.load(block + 3)
    out, inside = tl.where(turned, summed, result), tl.where(turned, result, summed)
    tap = tl.where(turned, taps_h * taps_w - 1 - tap, tap)
    there = (out < c_out) & (inside < c_in)
    kept = tl.load(mask + out.to(tl.int64) * m_out + inside * m_in + tap * m_tap, there, other=0)
    at = out.to(tl.int64) * w_out + inside * w_in + tap * w_tap
    values = tl.load(weight + at, there & (kept != 0), other=0)
    place = tl.arange(0, DEPTH)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(packed + program.to(tl.int64) * DEPTH * WIDTH + place, values)


SIZES = ["row_count", "tiles_h", "tiles_w", "channels"]
GEOMETRY = ["pad_h", "pad_w", "dilation_h", "dilation_w"]


@triton.jit(do_not_specialize=[*SIZES, *GEOMETRY])
def correlate_boxes(
    boxes, packed, bias, y_boxes, rows, blocks, row_count, tiles_h, tiles_w, channels,
    pad_h, pad_w, dilation_h, dilation_w, HAS_BIAS: tl.constexpr, RELU: tl.constexpr,
    DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    IMAGES: tl.constexpr, HEIGHT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute one tile of one row of blocks."""
    row = rows + tl.program_id(0) % row_count * 3  # programs that share pixels follow each other
    begin, end, first_out = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    tile = tl.program_id(0) // row_count
    image = tile // (tiles_w * tiles_h) * IMAGES
    top, left = tile // tiles_w % tiles_h * HEIGHT, tile % tiles_w * COLUMNS

    if HAS_BIAS:  # added first: after the products, registers are short
        out = first_out + tl.arange(0, WIDTH)
        shift = tl.load(bias + out, out < channels, other=0).to(tl.float32)[None, :]
        total = tl.broadcast_to(shift, [IMAGES * HEIGHT * COLUMNS, WIDTH])
    else:
        total = tl.zeros([IMAGES * HEIGHT * COLUMNS, WIDTH], tl.float32)
    # Copies need their block's numbers. Read a turn ahead, or the compiler pipelines nothing.
    block = blocks + begin * 4
    channel, down, right = tl.load(block + 1), tl.load(block + 2), tl.load(block + 3)
    for i in tl.range(begin, end):
        at_row, at_column = top - pad_h + down * dilation_h, left - pad_w + right * dilation_w
        box = boxes.load([image, at_row, at_column, channel])
        weights = packed.load([i * DEPTH, 0])
        block = blocks + (i + 1) * 4
        channel, down, right = tl.load(block + 1), tl.load(block + 2), tl.load(block + 3)
        total = tl.dot(box.reshape(IMAGES * HEIGHT * COLUMNS, DEPTH), weights, total)

    if RELU:
        total = tl.where(total < 0, 0, total)  # NaN stays, as in torch
    result = total.to(y_boxes.dtype).reshape(IMAGES, HEIGHT, COLUMNS, WIDTH)
    y_boxes.store([image, top, left, first_out], result)


# --- launcher -------------------------------------------------------------------------------


def pack(weight: Tensor, mask: Tensor, index: WideBlocks) -> Tensor:
    """Return the kept weights, (blocks of both passes, depth, width), zeros where the mask prunes.

    weight, mask: (C_out, C_in, kH, kW).  index: the mask's blocks.
    """
    (weight, w_strides), (mask, m_strides) = by_tap(weight), by_tap(mask)
    c_out, c_in, height, width = index.shape
    count, values = index.forward.count + index.backward.count, index.depth * index.width
    packed = weight.new_empty(max(count, 1), index.depth, index.width)
    if count:
        with guard(weight.device):
            pack_wide_blocks[(count,)](
                weight, mask.view(torch.uint8), index.forward.blocks, index.backward.blocks, packed,
                index.forward.count, c_out, c_in, height, width, *w_strides, *m_strides,
                DEPTH=index.depth, WIDTH=index.width, num_warps=max(1, values // PACKED_PER_WARP),
            )  # fmt: skip
    return packed


def tile_of(batch: int, height: int, width: int) -> tuple[int, int, int]:
    """Return the tile of `TILES` that covers so many positions with least in vain."""

    def covered(tile: tuple[int, int, int]) -> int:
        images, rows, columns = tile
        tiles = triton.cdiv(batch, images) * triton.cdiv(height, rows)
        return tiles * triton.cdiv(width, columns)

    return min(TILES, key=covered)


def _boxes(images: Tensor, tile: tuple[int, int, int], channels: int) -> TensorDescriptor:
    """Return the descriptor of images (N, C, H, W), channels_last, by boxes of a tile's pixels.

    channels: of a box.
    """
    if images.data_ptr() % 16:  # a part of some tensor that begins at an odd place
        images = images.clone(memory_format=torch.channels_last)
    n, c, h, w = images.shape
    # In numbers of its own: torch's strides mean nothing where there is one of a kind.
    strides = [h * w * c, w * c, c, 1]
    return TensorDescriptor(images, [n, h, w, c], strides, [*tile, channels])


def _correlated(
    x: Tensor, packed: Tensor, bias: Tensor | None, blocks: WidePass, index: WideBlocks,
    channels: int, out_hw: Sequence[int], padding: Sequence[int], dilation: Sequence[int], *,
    relu: bool = False,
) -> Tensor:  # fmt: skip
    """Return the result of a pass, (N, channels, *out_hw), channels_last.

    packed: its own blocks, (E, depth, width).  padding: may be negative.
    """
    y = x.new_empty(x.shape[0], channels, *out_hw)
    y = torch.empty_like(y, memory_format=torch.channels_last)
    if y.numel() == 0:
        return y
    depth, width = index.depth, index.width
    tile = tile_of(y.shape[0], *out_hw)
    tiles = [triton.cdiv(n, t) for n, t in zip((y.shape[0], *out_hw), tile, strict=True)]
    with guard(x.device):
        boxes = _boxes(channels_last(x), tile, depth)
        packed_boxes = TensorDescriptor.from_tensor(packed.view(-1, width), [depth, width])
        correlate_boxes[(tiles[0] * tiles[1] * tiles[2] * len(blocks.rows),)](
            boxes, packed_boxes, bias, _boxes(y, tile, width), blocks.rows, blocks.blocks,
            len(blocks.rows), tiles[1], tiles[2], channels, *padding, *dilation,
            HAS_BIAS=bias is not None, RELU=relu, DEPTH=depth, WIDTH=width,
            IMAGES=tile[0], HEIGHT=tile[1], COLUMNS=tile[2], **OPTIONS[depth, width],
        )  # fmt: skip
    return y


def masked_conv2d_tma(
    input: Tensor, packed: Tensor, bias: Tensor | None, index: WideBlocks, padding: Sequence[int],
    dilation: Sequence[int], *, relu: bool = False,
) -> Tensor:  # fmt: skip
    """Return y = conv2d(x, w * mask) + bias, or max(y, 0): (N, C_out, H_out, W_out), channels_last.

    input: x (N, C_in, H, W), float16 or bfloat16, on a GPU; converted if not channels_last.
    packed: the weight's blocks, of `pack`.  bias: (C_out,), or None.
    index: the blocks of this very mask.  padding, dilation: [height, width] in pixels.
    C_in must be a multiple of 8. Nothing is checked here: see `masked_conv2d.py`.
    """
    c_out, _, *kernel = index.shape
    out_hw = [input.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) for i in range(2)]
    own = packed[: max(index.forward.count, 1)]
    return _correlated(
        input, own, bias, index.forward, index, c_out, out_hw, padding, dilation, relu=relu
    )


def masked_conv2d_tma_grad_input(
    grad_output: Tensor, packed: Tensor, index: WideBlocks, input_hw: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    """Return dx (N, C_in, *input_hw), channels_last, the dtype of grad_output.

    grad_output: dy (N, C_out, H_out, W_out), on a GPU; converted if not channels_last.
    packed, index, padding, dilation: the forward's.  input_hw: (H, W) of the input, in pixels.
    C_out must be a multiple of 8.
    """
    _, c_in, *kernel = index.shape
    turned = [dilation[i] * (kernel[i] - 1) - padding[i] for i in range(2)]
    own = packed[index.forward.count :] if index.backward.count else packed[:1]
    return _correlated(
        grad_output, own, None, index.backward, index, c_in, input_hw, turned, dilation
    )
