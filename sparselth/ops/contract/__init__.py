"""The contract of every op: schema and fake kernel; `autograd/` has the derivatives.

Everything a backend has to agree on stands in this folder, in Python: an op's schema and its fake
kernel, by family. The docstring of the fake kernel describes the op: formula, shapes, dtypes,
layout, source; `describe("masked_conv2d")` returns it. `reference/` registers the plain PyTorch
oracle as the default kernel of each op; compiled libraries override it by dispatch key
(`STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m)` in csrc/). The public functions check for the user,
in words; every kernel compares its arguments again, `arguments.py` and csrc/common/checks.h,
because the ops can be called past them.

Conventions shared by all ops
    mask     bool, the shape of the weight it belongs to; True keeps the weight.
    plan     int32 or None. The mask's packed indices, see `sparselth.ops.plan`; a kernel that
             wants one and gets None builds it itself.
    k        number of entries kept, exactly; ties go to the lowest flat index.
    global_  False: one selection per tensor, `k` has one entry per tensor.
             True: one selection over all tensors in list order, `k` has one entry.
    pattern  what `k` counts, a pattern of `patterns.py` encoded; tensors are seen as contiguous
             (out, in, taps):
             []               single entries, ranked by magnitude.
             [0, r, c, t]     boxes of r outs x c ins x t taps, 0 for the whole axis, numbered row
                              by row and ranked by the sum of their squares.
             [1, n, m]        in every m neighbors along the ins (fewer at the end), for each tap,
                              the n largest magnitudes; `k` is empty.
             [2, taps, s...]  kernels, numbered row by row: in each those taps whose bits are set in
                              the shape of the largest sum of squares, the first of equals; kernels
                              are ranked by that sum. Where a tensor has another number of taps its
                              only shape is the whole kernel.
             Sums of squares are in float64 and in a fixed order, so that every backend finds the
             same bits: each weight is squared, outs are added one after another, ins into 32
             partial sums by their index modulo 32, which are then added in halves (i and i + 16,
             i and i + 8, ...), and taps one after another. NaN has one bit pattern only.
"""

from __future__ import annotations

import torch

from . import conv, gpu, lanes, lanes_fused, lanes_layers, linear, selection, steps
from .arguments import compute_dtype, output_size
from .registry import NAMESPACE, ConvSettings, describe, like_weight, memory_format

# The ops that public functions call; then all, with those behind them.
SCHEMAS = conv.SCHEMAS | linear.SCHEMAS | selection.SCHEMAS | steps.SCHEMAS
ALL_SCHEMAS = SCHEMAS | lanes.SCHEMAS | lanes_fused.SCHEMAS | lanes_layers.SCHEMAS | gpu.SCHEMAS

# Where to call them, for whoever must have imported their schemas before.
OPS = torch.ops.sparselth

__all__ = [
    "ALL_SCHEMAS",
    "NAMESPACE",
    "OPS",
    "SCHEMAS",
    "ConvSettings",
    "compute_dtype",
    "describe",
    "like_weight",
    "memory_format",
    "output_size",
]
