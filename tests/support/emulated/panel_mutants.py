"""Defects of the CUDA weight gradient by blocks of weights."""

from __future__ import annotations

from . import conv_cases
from .host_build import Mutant

GRAD_WEIGHT = conv_cases.BLOCKS[2]

MUTANTS = [
    Mutant(
        "channels of a panel lie as they come, and are read as turned",
        "halo_block_conv2d_grad_weight.cu",
        "tile += panel_place(pixel, segment);",
        "tile += pixel * kPanelSegments + segment;",
        GRAD_WEIGHT,
    ),
    Mutant(
        "taps of a weight's gradient are not dilated",
        "halo_block_conv2d_grad_weight.cu",
        "block.tap_row * t.dilation_h * t.plane_w",
        "block.tap_row * t.plane_w",
        GRAD_WEIGHT,
    ),
    Mutant(
        "pixels outside the result multiply what lies around them",
        "halo_block_conv2d_grad_weight.cu",
        "inside >> k & 1 ? places[k] + shift[s] : t.halo;",
        "places[k] + shift[s];",
        GRAD_WEIGHT,
    ),
    Mutant(
        "the pixel of zeros has none",
        "halo_block_conv2d_grad_weight.cu",
        "+ threadIdx.x] = {};",
        "+ threadIdx.x];",
        GRAD_WEIGHT,
    ),
    Mutant(
        "a split of a block's tiles is left out",
        "halo_block_conv2d_grad_weight.cu",
        "split < splits; split += shares",
        "split + 1 < splits; split += shares",
        GRAD_WEIGHT,
    ),
    Mutant(
        "the shares of a block's splits are not added up",
        "halo_block_conv2d_grad_weight.cu",
        "for (int32_t other = 1; other < shares; ++other)",
        "for (int32_t other = 1; other < 1; ++other)",
        GRAD_WEIGHT,
    ),
    Mutant(
        "the mask is not applied to a block's gradient",
        "halo_block_conv2d_grad_weight.cu",
        "mask[at] ? total.v[r] : 0.0f",
        "total.v[r]",
        GRAD_WEIGHT,
    ),
    Mutant(
        "gradients that are not listed are left as they were",
        "halo_block_conv2d_grad_weight.cu",
        "i < weights;",
        "i < 0;",
        GRAD_WEIGHT,
    ),
    Mutant(
        "both tiles of a panel lie in one place",
        "halo_block_conv2d_grad_weight.cu",
        "t.stages == 2 ? turn & 1 : 0",
        "0",
        GRAD_WEIGHT,
    ),
    Mutant(
        "a panel is multiplied before it has come",
        "halo_block_conv2d_grad_weight.cu",
        "wait_for_copies<0>();",
        "",
        GRAD_WEIGHT,
    ),
    Mutant(
        "others' part of a panel is not waited for",
        "halo_block_conv2d_grad_weight.cu",
        "__syncthreads();  // all have copied their part, and read the tile before",
        "",
        GRAD_WEIGHT,
    ),
    Mutant(
        "the only tile of a panel is overwritten while it is read",
        "halo_block_conv2d_grad_weight.cu",
        "__syncthreads();  // the only tile has been read",
        "",
        GRAD_WEIGHT,
    ),
    Mutant(
        "a tile's pixels are looked for where the next one's are",
        "halo_block_conv2d_grad_weight.cu",
        "origins + (turn & 1) * t.pixels()",
        "origins",
        GRAD_WEIGHT,
    ),
    Mutant(
        "a warp's first outputs serve all its blocks",
        "halo_block_conv2d_grad_weight.cu",
        "if (grad_segment[s] != held) {",
        "if (held < 0) {",
        GRAD_WEIGHT,
    ),
    Mutant(
        "every panel has the first inputs",
        "halo_block_conv2d_grad_weight.cu",
        "first_column = block.first_column - block.column * kEdge;",
        "first_column = 0;",
        GRAD_WEIGHT,
    ),
    Mutant(
        "a thread block loads the channels of some lanes' blocks",
        "halo_block_conv2d_grad_weight.cu",
        "used |= __shfl_xor_sync(kAllLanes, used, distance);",
        "used |= __shfl_xor_sync(kAllLanes, used, 0);",
        GRAD_WEIGHT,
    ),
    Mutant(
        "a panel's channels past the last are read",
        "halo_block_conv2d_grad_weight.cu",
        "from >= 0 && first < channels;",
        "from >= 0;",
        GRAD_WEIGHT,
    ),
    Mutant(
        "images past the batch have gradients",
        "halo_block_conv2d_grad_weight.cu",
        "if (n < t.batch && out_y",
        "if (out_y",
        GRAD_WEIGHT,
    ),
    Mutant(
        "gradients of outputs past the last are written",
        "halo_block_conv2d_grad_weight.cu",
        "if (row >= rows || column >= columns) continue;",
        "if (column >= columns) continue;",
        GRAD_WEIGHT,
    ),
]
