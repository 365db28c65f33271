"""masked_adamw_: one AdamW step on the surviving weights of many tensors, in place.

    g <- grad + rho (w - z + u)
    a <- (beta1 a + (1 - beta1) g) m;  b <- (beta2 b + (1 - beta2) g^2) m
    w <- ((1 - lr weight_decay) w - lr / (1 - beta1^t) a / (sqrt(b / (1 - beta2^t)) + eps)) m

with m the mask, a and b the moments, and t the step, counted from 1. Pruned weights and moments
become exactly zero, whatever stood there (a NaN included). Arithmetic in float32 (float64 for
float64), rounded once. z and u are ADMM's; without them the term with rho is left out, without
masks m.

t is an argument, one for all tensors, or each tensor's own on the device, where it is read: a CUDA
graph that holds the step and what counts it goes on counting. Neither changes the table.

One launch and its table's. Traffic per weight of b bytes with mask: 4 b + 1 read, 3 b written.

Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2,
in the form torch.optim.AdamW uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from .steps import in_one_order, setting, setting_like, step_table
from .tables import FLOATS, find_chunk, guard, pointer, wide, write_back

# --- launch table ---------------------------------------------------------------------------

BLOCK = 512  # with more, float64 spills registers
OPTIONS = {"num_warps": 4, "maxnreg": 128}  # see `select.py`

# --- device code ----------------------------------------------------------------------------
# Columns after FIRST and COUNT; behind them the settings: lr, 1 - lr weight_decay, beta1,
# 1 - beta1, beta2, 1 - beta2, eps, rho.

WEIGHT = tl.constexpr(2)
GRAD = tl.constexpr(3)
MEAN = tl.constexpr(4)
SQUARE = tl.constexpr(5)
MASK = tl.constexpr(6)
Z = tl.constexpr(7)
U = tl.constexpr(8)
STEP = tl.constexpr(9)
SETTINGS = tl.constexpr(10)


@triton.jit
def power(base, exponent):
    """Return base^exponent for an int32 exponent, by squaring."""
    result = tl.full([], 1, tl.float64)
    for _ in range(31):
        result = tl.where((exponent & 1) != 0, result * base, result)
        base = base * base
        exponent = exponent >> 1
    return result


@triton.jit(do_not_specialize=["segments", "tiles", "step"])
def adamw_step(
    table, segments, tiles, step, DTYPE: tl.constexpr, MASKED: tl.constexpr, PULLED: tl.constexpr,
    OWN_STEPS: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    weights = pointer(table, segments, WEIGHT, segment, DTYPE) + begin
    grads = pointer(table, segments, GRAD, segment, DTYPE) + begin
    means = pointer(table, segments, MEAN, segment, DTYPE) + begin
    squares = pointer(table, segments, SQUARE, segment, DTYPE) + begin
    if OWN_STEPS:
        count = tl.load(pointer(table, segments, STEP, segment, tl.float32)).to(tl.int32)
    else:
        count = step.to(tl.int32)
    # In float64: of 1 - beta^t a float32 has too few digits at the first steps.
    unbiased1 = 1 - power(setting(table, segments, SETTINGS, 2), count)
    unbiased2 = 1 - power(setting(table, segments, SETTINGS, 4), count)
    exact_step_size = setting(table, segments, SETTINGS, 0) / unbiased1
    exact_root = 1 / tl.sqrt(unbiased2)
    for start in range(0, size, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        valid = offsets < size
        weight = tl.load(weights + offsets, valid, other=0)
        w = wide(weight)
        g = wide(tl.load(grads + offsets, valid, other=0))
        if PULLED:
            z = tl.load(pointer(table, segments, Z, segment, DTYPE) + begin + offsets, valid)
            u = tl.load(pointer(table, segments, U, segment, DTYPE) + begin + offsets, valid)
            g += setting_like(table, segments, SETTINGS, 7, weight) * (w - wide(z) + wide(u))
        mean = wide(tl.load(means + offsets, valid, other=0))
        square = wide(tl.load(squares + offsets, valid, other=0))
        mean = setting_like(table, segments, SETTINGS, 2, weight) * mean
        mean += setting_like(table, segments, SETTINGS, 3, weight) * g
        square = setting_like(table, segments, SETTINGS, 4, weight) * square
        square += setting_like(table, segments, SETTINGS, 5, weight) * (g * g)
        root = tl.sqrt(square) if square.dtype == tl.float64 else tl.sqrt_rn(square)
        scale = root * exact_root.to(w.dtype) + setting_like(table, segments, SETTINGS, 6, weight)
        decayed = setting_like(table, segments, SETTINGS, 1, weight) * w
        moved = decayed - exact_step_size.to(w.dtype) * mean / scale
        kept = valid
        if MASKED:
            mask = pointer(table, segments, MASK, segment, tl.int8) + begin
            kept = tl.load(mask + offsets, valid, other=0) != 0
        zero = tl.zeros([BLOCK], DTYPE)
        tl.store(means + offsets, tl.where(kept, mean.to(DTYPE), zero), valid)
        tl.store(squares + offsets, tl.where(kept, square.to(DTYPE), zero), valid)
        tl.store(weights + offsets, tl.where(kept, moved.to(DTYPE), zero), valid)


# --- launcher -------------------------------------------------------------------------------


def masked_adamw_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    masks: Sequence[Tensor],
    z: Sequence[Tensor],
    u: Sequence[Tensor],
    steps: Sequence[Tensor],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    rho: float,
) -> None:
    """Overwrite weights and both moments: the formula above.

    Arguments as of the op `masked_adamw_`: lists of equal shapes, of one dtype, on one GPU; steps
    float32 scalars there, read by the kernel.
    """
    settings = (lr, 1 - lr * weight_decay, beta1, 1 - beta1, beta2, 1 - beta2, eps, rho)
    with guard(weights[0].device):
        used = in_one_order((weights, grads, exp_avgs, exp_avg_sqs, masks, z, u))
        table = step_table((*used, steps), settings, BLOCK)
        if table.chunks:
            adamw_step[(table.chunks,)](
                *table.arguments, step, DTYPE=FLOATS[weights[0].dtype], MASKED=bool(masks),
                PULLED=bool(z), OWN_STEPS=bool(steps), **table.constants, **OPTIONS,
            )  # fmt: skip
        for given, computed in ((weights, used[0]), (exp_avgs, used[2]), (exp_avg_sqs, used[3])):
            write_back(given, computed)


# --- registration ---------------------------------------------------------------------------
# `sparselth.ops.backends` finds the launcher by the op's name.
