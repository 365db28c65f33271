"""masked_sgd_: one SGD step on the surviving weights of many tensors, in place.

    g <- (grad + weight_decay w + rho (w - z + u)) m;  buf <- (momentum buf + (1 - dampening) g) m
    w <- (w - lr (g + momentum buf  if nesterov  else  buf)) m

with m the mask; without momentum, w <- (w - lr g) m. Pruned weights and momenta become exactly
zero, whatever stood there (a NaN included). Arithmetic in float32 (float64 for float64), rounded
once. z and u are ADMM's; without them the term with rho is left out, without masks m.

One launch and its table's. Elementwise, so any memory order will do as long as the tensors of one
entry share it. Traffic per weight of b bytes with mask and momentum: 3 b + 1 read, 2 b written.

Reference: Sutskever et al., "On the importance of initialization and momentum in deep learning",
ICML 2013, in the form torch.optim.SGD uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from .steps import in_one_order, setting_like, step_table
from .tables import FLOATS, find_chunk, guard, pointer, wide, write_back

# --- launch table ---------------------------------------------------------------------------

BLOCK = 1024
OPTIONS = {"num_warps": 4, "maxnreg": 128}  # see `select.py`

# --- device code ----------------------------------------------------------------------------
# Columns after FIRST and COUNT; behind them the settings: lr, momentum, 1 - dampening,
# weight_decay, rho.

WEIGHT = tl.constexpr(2)
GRAD = tl.constexpr(3)
BUFFER = tl.constexpr(4)
MASK = tl.constexpr(5)
Z = tl.constexpr(6)
U = tl.constexpr(7)
SETTINGS = tl.constexpr(8)


@triton.jit(do_not_specialize=["segments", "tiles"])
def sgd_step(
    table, segments, tiles, DTYPE: tl.constexpr, MASKED: tl.constexpr, MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr, PULLED: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    segment, begin, size = find_chunk(table, segments, tiles, BLOCK, SEGMENTS)
    weights = pointer(table, segments, WEIGHT, segment, DTYPE) + begin
    grads = pointer(table, segments, GRAD, segment, DTYPE) + begin
    for start in range(0, size, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        valid = offsets < size
        weight = tl.load(weights + offsets, valid, other=0)
        w = wide(weight)
        step = wide(tl.load(grads + offsets, valid, other=0))
        step += setting_like(table, segments, SETTINGS, 3, weight) * w
        if PULLED:
            z = tl.load(pointer(table, segments, Z, segment, DTYPE) + begin + offsets, valid)
            u = tl.load(pointer(table, segments, U, segment, DTYPE) + begin + offsets, valid)
            step += setting_like(table, segments, SETTINGS, 4, weight) * (w - wide(z) + wide(u))
        kept = valid
        if MASKED:
            mask = pointer(table, segments, MASK, segment, tl.int8) + begin
            kept = tl.load(mask + offsets, valid, other=0) != 0
        zero = tl.zeros([BLOCK], DTYPE)
        if MOMENTUM:
            buffers = pointer(table, segments, BUFFER, segment, DTYPE) + begin
            buffer = wide(tl.load(buffers + offsets, valid, other=0))
            momentum = setting_like(table, segments, SETTINGS, 1, weight)
            buffer = momentum * buffer + setting_like(table, segments, SETTINGS, 2, weight) * step
            tl.store(buffers + offsets, tl.where(kept, buffer.to(DTYPE), zero), valid)
            step = step + momentum * buffer if NESTEROV else buffer
        moved = (w - setting_like(table, segments, SETTINGS, 0, weight) * step).to(DTYPE)
        tl.store(weights + offsets, tl.where(kept, moved, zero), valid)


# --- launcher -------------------------------------------------------------------------------


def masked_sgd_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    masks: Sequence[Tensor],
    z: Sequence[Tensor],
    u: Sequence[Tensor],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    rho: float,
) -> None:
    """Overwrite weights, and momenta when momentum is not 0: the formula above.

    Arguments as of the op `masked_sgd_`: lists of equal shapes, of one dtype, on one GPU.
    """
    values = (lr, momentum, 1 - dampening, weight_decay, rho)
    with guard(weights[0].device):
        used = in_one_order((weights, grads, momenta if momentum else [], masks, z, u))
        table = step_table(used, values, BLOCK)
        if table.chunks:
            sgd_step[(table.chunks,)](
                *table.arguments, DTYPE=FLOATS[weights[0].dtype], MASKED=bool(masks),
                MOMENTUM=momentum != 0, NESTEROV=nesterov, PULLED=bool(z), **table.constants,
                **OPTIONS,
            )  # fmt: skip
        write_back(weights, used[0])
        if momentum != 0:
            write_back(momenta, used[2])


# --- registration ---------------------------------------------------------------------------
# `sparselth.ops.backends` finds the launcher by the op's name.
