"""Defects of the CUDA convolutions by vectors and by blocks of weights."""

from __future__ import annotations

from . import conv_cases
from .host_build import Mutant

BY_VECTORS, VECTORS_BACK = conv_cases.VECTORS
BY_BLOCKS, BLOCKS_BACK, _ = conv_cases.BLOCKS

MUTANTS = [
    Mutant(
        "columns past the last are read",
        "column_vector_conv2d.cu",
        "there = first < t.columns && from_pixel",
        "there = from_pixel",
        BY_VECTORS,
    ),
    Mutant(
        "images past the batch are read by the quad",
        "column_vector_conv2d.cu",
        "if (there && image + n < t.batch) {",
        "if (there) {",
        BY_VECTORS,
    ),
    Mutant(
        "an odd number of channels is loaded by the quad",
        "column_vector_conv2d.cu",
        "const bool whole = t.columns % 4 == 0 && aligned_to<uint2>(input);",
        "const bool whole = true;",
        BY_VECTORS,
    ),
    Mutant(
        "two pixels change places under vectors of 8",
        "column_vector_conv2d.cu",
        "images{pixels[0], pixels[2], pixels[1], pixels[3]}",
        "images{pixels[0], pixels[1], pixels[2], pixels[3]}",
        BY_VECTORS,
    ),
    Mutant(
        "vectors of 8 lack half of a k-step's weights",
        "column_vector_conv2d.cu",
        "= {pair(row, column), pair(row, column + 8)};",
        "= {pair(row, column), pair(row, column)};",
        VECTORS_BACK,
    ),
    Mutant(
        "results of vectors of 8 lie as those of 16",
        "column_vector_conv2d.cu",
        "(kVector == 16 ? near : far)",
        "near",
        BY_VECTORS,
    ),
    Mutant(
        "two images change places",
        "column_vector_conv2d.cu",
        "{both(0), both(2), both(4), both(6)}",
        "{both(2), both(0), both(4), both(6)}",
        BY_VECTORS,
    ),
    Mutant(
        "both pixels of a pair are the first",
        "column_vector_conv2d.cu",
        "first_pixel + 2 * pair + lane / 16;",
        "first_pixel + 2 * pair;",
        BY_VECTORS,
    ),
    Mutant(
        "the mask is not applied within a vector",
        "column_vector_conv2d.cu",
        "mask[at] ? bits_of(weight[at]) : 0",
        "bits_of(weight[at])",
        BY_VECTORS,
    ),
    Mutant(
        "rows past the last are packed",
        "column_vector_conv2d.cu",
        "if (base < 0 || first_row + row >= rows) return 0;",
        "if (base < 0) return 0;",
        BY_VECTORS,
    ),
    Mutant(
        "a block looks at its first group for work",
        "column_vector_conv2d.cu",
        "s < first_slot + kGroups; ++s",
        "s < first_slot + 1; ++s",
        BY_VECTORS,
    ),
    Mutant(
        "the vectors' tile is overwritten while it is read",
        "column_vector_conv2d.cu",
        "__syncthreads();  // the tile before has been read",
        "",
        VECTORS_BACK,
    ),
    Mutant(
        "rows of the lower half are written to the upper",
        "column_vector_conv2d.cu",
        "far + 8 * half",
        "far",
        VECTORS_BACK,
    ),
    Mutant(
        "groups without rows are written",
        "column_vector_conv2d.cu",
        "if (group < 0) return;",
        "",
        VECTORS_BACK,
    ),
    Mutant(
        "a tile is multiplied before it has come",
        "halo_block_conv2d.cu",
        "wait_for_copies<1>();",
        "",
        BY_BLOCKS,
    ),
    Mutant(
        "others' part of a tile is not waited for",
        "halo_block_conv2d.cu",
        "__syncthreads();  // all have copied their part",
        "",
        BY_BLOCKS,
    ),
    Mutant(
        "a tile is overwritten while it is read",
        "halo_block_conv2d.cu",
        "__syncthreads();  // the tile has been read",
        "",
        BLOCKS_BACK,
    ),
    Mutant(
        "segments lie as they come, and are read as turned",
        "halo_block_conv2d.cu",
        "tile + pixel * kSegments + turned(pixel, segment);",
        "tile + pixel * kSegments + segment;",
        BY_BLOCKS,
    ),
    Mutant(
        "an odd number of channels is copied by the segment",
        "halo_block_conv2d.cu",
        "const bool whole = t.columns % 8 == 0 && aligned_to<uint4>(input);",
        "const bool whole = true;",
        BY_BLOCKS,
    ),
    Mutant(
        "channels past the last are read",
        "halo_block_conv2d.cu",
        "from >= 0 && first < t.columns;",
        "from >= 0;",
        BY_BLOCKS,
    ),
    Mutant(
        "images past the batch are read by the block",
        "halo_block_conv2d.cu",
        "from >= 0 && image + int32_t(n) < t.batch;",
        "from >= 0;",
        BLOCKS_BACK,
    ),
    Mutant(
        "the mask is not applied within a block",
        "halo_block_conv2d.cu",
        "return kept ? bits_of",
        "return true ? bits_of",
        BY_BLOCKS,
    ),
    Mutant(
        "both halves of a block's columns are the first",
        "halo_block_conv2d.cu",
        "fragment / 2 * 16 + lane % 4 * 2",
        "lane % 4 * 2",
        BY_BLOCKS,
    ),
    Mutant(
        "a thread block looks at its first rows for work",
        "halo_block_conv2d.cu",
        "block < last_block; ++block",
        "block < first_block + 1; ++block",
        BY_BLOCKS,
    ),
    Mutant(
        "pixels below the image are written",
        "halo_block_conv2d.cu",
        "if (n >= t.batch || out_y >= t.out_h ||",
        "if (n >= t.batch ||",
        BLOCKS_BACK,
    ),
    Mutant(
        "rows past the last are written by the block",
        "halo_block_conv2d.cu",
        "if (row >= rows) continue;",
        "",
        BY_BLOCKS,
    ),
]
