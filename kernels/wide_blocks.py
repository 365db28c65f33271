"""Masks as lists of blocks of two edges: what the convolution by copied boxes walks.

A block is `depth` channels that are summed over by `width` channels of the result, of one tap;
those that keep nothing are not listed. A wide one shares the pixels it is multiplied with among up
to 128 channels of the result. The forward sums over inputs, the input gradient over outputs, so
each has a list of its own; both are packed by the same launch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

# Depth and width.
SHAPES = ((64, 64), (32, 32), (16, 16), (64, 128), (32, 128), (16, 128))


class WidePass(NamedTuple):
    """The blocks of a pass: int32 on the mask's device.

    rows: (R, 3), the longest first: first and last block, first channel of the result.
    blocks: (E + 1, 4), by row: first channel of the result, first channel summed over, row and
    column of the tap as the pass meets it. The last one is read ahead and not multiplied.
    """

    rows: Tensor
    blocks: Tensor

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self.blocks) - 1


@dataclass(eq=False)
class WideBlocks:
    """The blocks of one mask, of a convolution without groups.

    shape: (C_out, C_in, kH, kW).  density: share of the weight in listed blocks, mean of both
    passes.
    """

    depth: int
    width: int
    shape: tuple[int, int, int, int]
    forward: WidePass
    backward: WidePass
    density: float


def cheapest_wide_blocks(mask: Tensor, costs: Mapping[Pair, float]) -> WideBlocks:
    """List the blocks of a mask, of the shape with which they should cost least.

    mask: bool (C_out, C_in, kH, kW), on any device.
    costs: (depth, width) -> what a weight costs in such blocks.
    """
    found = {shape: _listed(mask, *shape) for shape in costs}

    def density(shape: Pair) -> float:
        return sum(float(listed.float().mean()) for listed in found[shape]) / 2

    densities = {shape: density(shape) for shape in costs}
    depth, width = best = min(costs, key=lambda shape: densities[shape] * costs[shape])
    forward, backward = (_pass(listed.cpu(), depth, width) for listed in found[best])
    on_device = [WidePass(*(t.to(mask.device) for t in lists)) for lists in (forward, backward)]
    c_out, c_in, height, width_ = mask.shape
    return WideBlocks(depth, width, (c_out, c_in, height, width_), *on_device, densities[best])


def _listed(mask: Tensor, depth: int, width: int) -> tuple[Tensor, Tensor]:
    """Return what keeps anything, for each pass: bool (results / width, summed / depth, kH, kW).

    Seen from the input, the taps are turned around.
    """
    return _kept(mask, depth, width), _kept(mask.transpose(0, 1).flip(2, 3), depth, width)


def _kept(rows_first: Tensor, depth: int, width: int) -> Tensor:
    rows, columns = rows_first.shape[:2]
    whole = F.pad(rows_first, (0, 0, 0, 0, 0, -columns % depth, 0, -rows % width))
    return whole.unflatten(1, (-1, depth)).unflatten(0, (-1, width)).any(3).any(1)


def _pass(listed: Tensor, depth: int, width: int) -> WidePass:
    row, column, tap_row, tap_column = listed.nonzero().unbind(1)  # by row already
    counts = torch.bincount(row, minlength=len(listed))
    ends = counts.cumsum(0)
    rows = torch.stack((ends - counts, ends, torch.arange(len(listed)) * width), 1)
    # The longest first: what is left over at the end is short.
    rows = rows[counts.argsort(descending=True, stable=True)]
    blocks = torch.stack((row * width, column * depth, tap_row, tap_column), 1)
    return WidePass(rows.to(torch.int32), F.pad(blocks, (0, 0, 0, 1)).to(torch.int32))
