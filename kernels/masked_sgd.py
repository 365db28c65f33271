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

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tables import FLOATS, addresses, find_chunk, guard, make_table, pointer, wide, write_back

# --- launch table ---------------------------------------------------------------------------

BLOCK = 1024
OPTIONS = {"num_warps": 4, "maxnreg": 128}  # see `select.py`

# --- device code ----------------------------------------------------------------------------
# Columns after FIRST and COUNT; behind them the settings, float64 in two words each.

WEIGHT = tl.constexpr(2)
GRAD = tl.constexpr(3)
BUFFER = tl.constexpr(4)
MASK = tl.constexpr(5)
Z = tl.constexpr(6)
U = tl.constexpr(7)
SETTINGS = tl.constexpr(8)


@triton.jit
def setting(table, segments, which, like):
    """Return one of the settings in the type that `like` computes in."""
    words = table + SETTINGS * segments + 2 * which
    bits = (tl.load(words) << 32) | tl.load(words + 1)
    return bits.to(tl.float64, bitcast=True).to(wide(like).dtype)


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
        step += setting(table, segments, 3, weight) * w
        if PULLED:
            z = tl.load(pointer(table, segments, Z, segment, DTYPE) + begin + offsets, valid)
            u = tl.load(pointer(table, segments, U, segment, DTYPE) + begin + offsets, valid)
            step += setting(table, segments, 4, weight) * (w - wide(z) + wide(u))
        kept = valid
        if MASKED:
            mask = pointer(table, segments, MASK, segment, tl.int8) + begin
            kept = tl.load(mask + offsets, valid, other=0) != 0
        zero = tl.zeros([BLOCK], DTYPE)
        if MOMENTUM:
            buffers = pointer(table, segments, BUFFER, segment, DTYPE) + begin
            buffer = wide(tl.load(buffers + offsets, valid, other=0))
            momentum = setting(table, segments, 1, weight)
            buffer = momentum * buffer + setting(table, segments, 2, weight) * step
            tl.store(buffers + offsets, tl.where(kept, buffer.to(DTYPE), zero), valid)
            step = step + momentum * buffer if NESTEROV else buffer
        moved = (w - setting(table, segments, 0, weight) * step).to(DTYPE)
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
    """Overwrite weights, and momenta when momentum is not 0."""
    given = [weights, grads, momenta if momentum else [], masks, z, u]
    entries = zip(*(tensors or [None] * len(weights) for tensors in given), strict=True)
    used = list(zip(*map(_in_one_order, entries), strict=True))
    columns = [addresses(used[0] if column[0] is None else column) for column in used]
    values = (lr, momentum, 1 - dampening, weight_decay, rho)
    settings = [word for value in values for word in struct.unpack(">II", struct.pack(">d", value))]
    device, sizes = weights[0].device, [w.numel() for w in weights]
    with guard(device):
        table = make_table(sizes, columns, tail=settings, block=BLOCK, device=device)
        if table.chunks:
            sgd_step[(table.chunks,)](
                *table.arguments, DTYPE=FLOATS[weights[0].dtype], MASKED=bool(masks),
                MOMENTUM=momentum != 0, NESTEROV=nesterov, PULLED=bool(z), **table.constants,
                **OPTIONS,
            )  # fmt: skip
        write_back(weights, used[0])
        if momentum != 0:
            write_back(momenta, used[2])


def _in_one_order(entry: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return an entry's tensors as they are where they share a gap-free order, else contiguous."""
    strides = {tensor.stride() for tensor in entry if tensor is not None}
    weight = entry[0]
    assert weight is not None
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    if len(strides) == 1 and (last or weight.is_contiguous()):
        return list(entry)
    return [tensor if tensor is None else tensor.contiguous() for tensor in entry]


# --- registration ---------------------------------------------------------------------------
# `sparselth.ops.backends` finds the launcher by the op's name.
