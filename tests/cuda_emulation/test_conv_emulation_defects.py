"""Defects put into the CUDA convolutions on purpose are caught, on the host."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.emulated import conv_cases, host_build
from support.emulated.conv_cases import SEEDS, driver_of
from support.emulated.host_build import Mutant

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with"),
]

FORWARD, GRAD_INPUT, GRAD_WEIGHT = conv_cases.ENTRIES
BY_VECTORS, VECTORS_BACK = conv_cases.VECTORS
BY_BLOCKS, BLOCKS_BACK = conv_cases.BLOCKS
MUTANTS = [
    Mutant("dilation is forgotten", "unstructured_tile.cuh", "tap * t.dilation_w", "tap", FORWARD),
    Mutant(
        "every chunk has the first columns",
        "unstructured_tile.cuh",
        "t.columns + first + column;",
        "t.columns + column;",
        FORWARD,
    ),
    Mutant(
        "images past the batch are read",
        "unstructured_tile.cuh",
        "place.image + int32_t(image) < t.batch)",
        "true)",
        FORWARD,
    ),
    Mutant(
        "pixels right of the image are written",
        "unstructured_tile.cuh",
        "x + lane_x < t.out_w;",
        "x + lane_x <= t.out_w;",
        FORWARD,
    ),
    Mutant(
        "a gradient is repeated between its pixels",
        "virtual_input.cuh",
        "|| from_x * up_w != x",
        "",
        GRAD_INPUT,
    ),
    Mutant(
        "the input gradient is padded as the forward",
        "common/conv_pass.h",
        "p.pad_h = int32_t(g.dilation_h * (g.kernel_h - 1) - g.pad_h);",
        "p.pad_h = int32_t(g.pad_h);",
        GRAD_INPUT,
    ),
    Mutant(
        "a block looks at its first warp for work",
        "unstructured_tile.cuh",
        "for (int32_t warp = 0; warp < kWarps; ++warp) {\n      const int32_t* run",
        "for (int32_t warp = 0; warp < 1; ++warp) {\n      const int32_t* run",
        FORWARD,
    ),
    Mutant(
        "the tile is overwritten while it is read",
        "unstructured_conv2d.cu",
        "__syncthreads();  // the tile before has been read",
        "",
        FORWARD,
    ),
    Mutant(
        "the tile is read before it is there",
        "unstructured_conv2d.cu",
        "load_tile(t, place, chunk, input, tile);\n    __syncthreads();",
        "load_tile(t, place, chunk, input, tile);",
        FORWARD,
    ),
    Mutant(
        "entries are read where the warp's do not begin",
        "unstructured_conv2d.cu",
        "(entry - first) % 32",
        "entry % 32",
        FORWARD,
    ),
    Mutant(
        "slots without a row are written",
        "unstructured_conv2d.cu",
        "if (row < 0) continue;",
        "",
        FORWARD,
    ),
    Mutant(
        "the bias goes by slot",
        "unstructured_conv2d.cu",
        "Number<T>::widen(bias[row])",
        "Number<T>::widen(bias[slot % rows])",
        FORWARD,
    ),
    Mutant(
        "the tile of a weight's gradient is overwritten while it is read",
        "unstructured_conv2d_grad_weight.cu",
        "__syncthreads();  // the tile before has been read",
        "",
        GRAD_WEIGHT,
    ),
    Mutant(
        "lanes hand on what they should keep",
        "unstructured_conv2d_grad_weight.cu",
        "upper ? sums[i] : sums[i + kHalf]",
        "upper ? sums[i + kHalf] : sums[i]",
        GRAD_WEIGHT,
    ),
    Mutant(
        "the gradients of the first row serve all",
        "unstructured_conv2d_grad_weight.cu",
        "if (wanted != held) {",
        "if (held < 0) {",
        GRAD_WEIGHT,
    ),
    Mutant(
        "the last tile replaces the others",
        "unstructured_conv2d_grad_weight.cu",
        "result = at == split ? total : result + total;",
        "result = total;",
        GRAD_WEIGHT,
    ),
    Mutant(
        "a split is left out",
        "unstructured_conv2d_grad_weight.cu",
        "for (int32_t split = 0; split < splits; ++split) {",
        "for (int32_t split = 0; split + 1 < splits; ++split) {",
        GRAD_WEIGHT,
    ),
    Mutant(
        "gradients are put in the plan's order",
        "unstructured_conv2d_grad_weight.cu",
        "grad_weight[plan.position(entry)]",
        "grad_weight[entry]",
        GRAD_WEIGHT,
    ),
    Mutant(
        "pixels outside the result multiply a zero",
        "unstructured_conv2d_grad_weight.cu",
        "if (inside >> i & 1) sums[turn]",
        "sums[turn]",
        GRAD_WEIGHT,
    ),
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


@pytest.fixture(scope="module")
def mutant_programs() -> dict[str, Path]:
    def built(mutant: Mutant) -> Path:
        return host_build.build(driver_of(mutant.op), mutant, ("-DEMULATE_DTYPES=2", "-O0"))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip([m.name for m in MUTANTS], pool.map(built, MUTANTS), strict=True))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_defect_is_caught(mutant_programs: dict[str, Path], mutant: Mutant) -> None:
    for seeds in (SEEDS[:8], SEEDS[8:]):  # most need no more than the first
        drawn = conv_cases.cases_of(mutant.op, torch.float16, seeds)
        output, complaint = host_build.run(mutant_programs[mutant.name], conv_cases.encode(drawn))
        if complaint or conv_cases.mismatches(drawn, output):
            return
    pytest.fail("it was not caught")
