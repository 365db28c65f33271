"""What the optimizers' steps share: settings in a table's tail, and tensors in one order.

Elementwise, so any memory order will do as long as the tensors of one entry share it. Settings are
float64, in two words each, behind the table's columns: a number that is passed to a kernel would
be rounded to float32.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tables import Table, addresses, make_table, wide

# --- device code ----------------------------------------------------------------------------


@triton.jit
def setting(table, segments, columns, which):
    """Return one of the settings, which lie behind the columns, in float64."""
    words = table + columns * segments + 2 * which
    bits = (tl.load(words) << 32) | tl.load(words + 1)
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def setting_like(table, segments, columns, which, like):
    """Return one of the settings in the type that `like` computes in."""
    return setting(table, segments, columns, which).to(wide(like).dtype)


# --- launcher -------------------------------------------------------------------------------


def in_one_order(lists: Sequence[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
    """Return lists whose tensors at one place share a gap-free order. Empty ones stay empty.

    lists: the weights first. Tensors are as they were given where they do already, else copies.
    """
    count = len(lists[0])
    entries = zip(*(tensors or [None] * count for tensors in lists), strict=True)
    used = zip(*map(_in_one_order, entries), strict=True)
    return [column if given else [] for column, given in zip(used, lists, strict=True)]


def _in_one_order(entry: Sequence[Tensor | None]) -> list[Tensor | None]:
    strides = {tensor.stride() for tensor in entry if tensor is not None}
    weight = entry[0]
    assert weight is not None
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    if len(strides) == 1 and (last or weight.is_contiguous()):
        return list(entry)
    return [tensor if tensor is None else tensor.contiguous() for tensor in entry]


def step_table(lists: Sequence[Sequence[Tensor]], settings: Sequence[float], block: int) -> Table:
    """Return the table of these lists' addresses, those of the weights where one is empty."""
    weights = lists[0]
    columns = [addresses(tensors or weights) for tensors in lists]
    tail = [word for value in settings for word in struct.unpack(">II", struct.pack(">d", value))]
    sizes, device = [w.numel() for w in weights], weights[0].device
    return make_table(sizes, columns, tail=tail, block=block, device=device)
