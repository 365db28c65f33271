"""Defects of the CUDA convolutions, each of which the emulation must catch."""

from __future__ import annotations

from . import conv_cases, panel_mutants, tensor_core_mutants
from .host_build import Mutant

FORWARD, GRAD_INPUT, GRAD_WEIGHT = conv_cases.ENTRIES

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
        "for (int32_t split = warp; split < splits; split += kWarps)",
        "for (int32_t split = warp; split + 1 < splits; split += kWarps)",
        GRAD_WEIGHT,
    ),
    Mutant(
        "other warps' splits are not waited for",
        "unstructured_conv2d_grad_weight.cu",
        "of_warps[threadIdx.x] = total;\n  __syncthreads();",
        "of_warps[threadIdx.x] = total;",
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
    *tensor_core_mutants.MUTANTS,
    *panel_mutants.MUTANTS,
]
