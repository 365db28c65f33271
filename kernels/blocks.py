"""Masks as lists of blocks: what the block-sparse convolutions walk.

A block is size x size weights of one tap, over (out, in) within a group. Blocks that keep nothing
are not listed; in those that are, single weights may still be pruned, so that any mask is served
exactly, and one made of whole blocks at no loss. Built when a mask changes, on the host, with one
copy from the device.

Channels may stand in another order, those that keep anything first: the blocks of a mask that
prunes whole filters and channels are then few and full, wherever these lie. Blocks and walks count
places in that order, and the kernels look up which channel stands there.

A pass walks its rows, one for each block of its output channels, and each row's entries. The input
gradient walks the same blocks by input channel; with a stride its output positions fall into
phases, by their remainder, each reached by taps of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

SIZES = (64, 32, 16)


class Orders(NamedTuple):
    """Which channel stands at each place: int32 on the mask's device, or None for all as they come.

    outs: (C_out,).  ins: (C_in,). Of a convolution without groups.
    """

    outs: Tensor | None = None
    ins: Tensor | None = None

    def applied(self, mask: Tensor) -> Tensor:
        """Return a mask with its channels in these orders."""
        for axis, order in enumerate(self):
            mask = mask if order is None else mask.index_select(axis, order)
        return mask


NO_ORDERS = Orders()


def order_channels(mask: Tensor) -> Orders:
    """Return the orders that put first what keeps anything; None where it comes first already.

    Both parts ascend: what are neighbors in memory stay near.
    mask: bool (C_out, C_in, kH, kW), of a convolution without groups.
    """
    kept = [mask.transpose(0, axis).flatten(1).any(1) for axis in (0, 1)]
    return Orders(*(_order(channels) for channels in kept))


def _order(kept: Tensor) -> Tensor | None:
    if not (kept[1:] & ~kept[:-1]).any():
        return None
    return (~kept).to(torch.uint8).argsort(stable=True).to(torch.int32)


class Walk(NamedTuple):
    """One phase of a pass: int32 on the device. Channels are places in the index's orders.

    rows: (R, 5), the longest first: first and last entry, first output channel, where the group's
    output channels and its input channels end.
    entries: (E', 4): first input channel, offset of the input's row and column, slot of the block.
    first, step: output positions are first + i * step; the input's are i * in_step + offset.
    size: how many output positions.
    """

    rows: Tensor
    entries: Tensor
    first: Pair
    step: Pair
    in_step: Pair
    size: Pair


@dataclass(eq=False)
class BlockIndex:
    """The blocks of one mask.

    size: edge of a block.  shape: (C_out, C_in / groups, kH, kW).
    blocks: int32 (E, 4) on the mask's device, by slot: group, first output channel within the
    weight, first input channel within the group, tap.  host: the same on the CPU.
    orders: of the channels that these are counted in.
    """

    size: int
    shape: tuple[int, int, int, int]
    groups: int
    blocks: Tensor
    host: Tensor
    orders: Orders = NO_ORDERS
    walks: dict[tuple, list[Walk]] = field(default_factory=dict)

    @cached_property
    def slots(self) -> Tensor:
        """The slot of every block of the weight, or -1: int32 on the mask's device.

        Flat, over group, blocks of output channels, blocks of input channels, tap.
        """
        c_out, c_in, height, width = self.shape
        outs, taps = c_out // self.groups, height * width
        edges = [-(-n // self.size) for n in (outs, c_in)]
        group, out, inside, tap = self.host.long().unbind(1)
        row = group * edges[0] + (out - group * outs) // self.size
        slots = torch.full((self.groups * edges[0] * edges[1] * taps,), -1, dtype=torch.int32)
        at = (row * edges[1] + inside // self.size) * taps + tap
        slots[at] = torch.arange(len(self.host), dtype=torch.int32)
        return slots.to(self.blocks.device)

    @property
    def density(self) -> float:
        """Share of the weight that lies in listed blocks, counted as whole blocks."""
        c_out, c_in, *_ = self.shape
        edges = [-(-n // self.size) for n in (c_out // self.groups, c_in)]
        there = self.groups * edges[0] * edges[1] * self.shape[2] * self.shape[3]
        return len(self.host) / max(there, 1)


def find_blocks(mask: Tensor, groups: int, size: int, orders: Orders = NO_ORDERS) -> BlockIndex:
    """List the blocks of a mask.

    mask: bool (C_out, C_in / groups, kH, kW), its channels as they come.  size: one of `SIZES`.
    orders: in which the blocks are looked for, of `order_channels`; none where there are groups.
    """
    return cheapest_blocks(mask, groups, {size: 1.0}, orders)


def cheapest_blocks(
    mask: Tensor, groups: int, costs: Mapping[int, float], orders: Orders = NO_ORDERS
) -> BlockIndex:
    """List the blocks of a mask, of the size with which it should cost least.

    mask, orders: as in `find_blocks`.  costs: size of blocks -> what a weight costs in them.
    """
    mask = orders.applied(mask)
    found = {size: _listed(mask, groups, size) for size in costs}
    best = min(found, key=lambda size: len(found[size]) * size**2 * costs[size])
    c_out, c_in, height, width = mask.shape
    host = found[best].cpu()
    shape = (c_out, c_in, height, width)
    return BlockIndex(best, shape, groups, host.to(mask.device), host, orders)


def _listed(mask: Tensor, groups: int, size: int) -> Tensor:
    c_out, c_in = mask.shape[:2]
    outs = c_out // groups
    by_tap = mask.reshape(groups, outs, c_in, -1)
    padded = F.pad(by_tap, (0, 0, 0, -c_in % size, 0, -outs % size))
    tiles = padded.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    kept = tiles.any(4).any(2).nonzero()  # group, block of outs, block of ins, tap
    group, out, inside, tap = kept.unbind(1)
    columns = (group, group * outs + out * size, inside * size, tap)
    return torch.stack(columns, 1).to(torch.int32)


def forward_walk(
    index: BlockIndex, out_hw: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> list[Walk]:
    """Return the one phase of the forward pass."""
    key = ("forward", out_hw, stride, padding, dilation)
    if key not in index.walks:
        group, out, inside, tap = index.host.long().unbind(1)
        c_out, c_in = index.shape[0] // index.groups, index.shape[1]
        offsets = [
            at * dilation[axis] - padding[axis] for axis, at in enumerate(_places(tap, index))
        ]
        rows, entries = _rows(index, group, out, c_out, group * c_in + inside, c_in, offsets)
        index.walks[key] = [Walk(rows, entries, (0, 0), (1, 1), stride, out_hw)]
    return index.walks[key]


def grad_input_walks(
    index: BlockIndex, input_hw: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> list[Walk]:
    """Return the phases of the input gradient."""
    key = ("grad_input", input_hw, stride, padding, dilation)
    if key not in index.walks:
        phases = product(*(range(min(s, n)) for s, n in zip(stride, input_hw, strict=True)))
        index.walks[key] = [
            _grad_input_phase(index, phase, input_hw, stride, padding, dilation) for phase in phases
        ]
    return index.walks[key]


def _grad_input_phase(
    index: BlockIndex, phase: Pair, input_hw: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Walk:
    group, out, inside, tap = index.host.long().unbind(1)
    c_out, c_in = index.shape[0] // index.groups, index.shape[1]
    # x at phase + i * stride meets the output at i + (phase + padding - tap * dilation) / stride.
    reached = [
        phase[axis] + padding[axis] - at * dilation[axis]
        for axis, at in enumerate(_places(tap, index))
    ]
    hit = torch.ones_like(tap, dtype=torch.bool)
    for axis, at in enumerate(reached):
        hit &= at % stride[axis] == 0
    offsets = [at.div(stride[axis], rounding_mode="floor") for axis, at in enumerate(reached)]
    rows, entries = _rows(index, group, group * c_in + inside, c_in, out, c_out, offsets, hit)
    size = tuple(
        -(-(n - first) // step) for n, first, step in zip(input_hw, phase, stride, strict=True)
    )
    return Walk(rows, entries, phase, stride, (1, 1), (size[0], size[1]))


def _places(tap: Tensor, index: BlockIndex) -> tuple[Tensor, Tensor]:
    width = index.shape[3]
    return tap.div(width, rounding_mode="floor"), tap % width


def _rows(
    index: BlockIndex,
    group: Tensor,
    out: Tensor,
    outs_per_group: int,
    inside: Tensor,
    ins_per_group: int,
    offsets: Sequence[Tensor],
    hit: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the rows and entries of a walk; `hit` leaves entries out.

    out, inside: first channel of each entry, counted over all groups.
    """
    blocks = -(-outs_per_group // index.size)
    number = group * blocks + (out - group * outs_per_group) // index.size
    slots = torch.arange(len(group))
    if hit is not None:
        slots = slots[hit]
    slots = slots[number[slots].argsort(stable=True)]
    counts = torch.bincount(number[slots], minlength=index.groups * blocks)
    ends = counts.cumsum(0)
    row = torch.arange(index.groups * blocks)
    of_group = row.div(max(blocks, 1), rounding_mode="floor")
    first_out = of_group * outs_per_group + row % max(blocks, 1) * index.size
    rows = torch.stack(
        (
            ends - counts,
            ends,
            first_out,
            (of_group + 1) * outs_per_group,
            (of_group + 1) * ins_per_group,
        ),
        1,
    )
    # The longest first: what is left over at the end is short.
    rows = rows[counts.argsort(descending=True, stable=True)]
    entries = torch.stack((inside[slots], *(at[slots] for at in offsets), slots), 1)
    device = index.blocks.device
    return rows.to(device, torch.int32), entries.to(device, torch.int32)
