"""Whole filters and channels that are pruned: blocks of what remains, wherever that lies.

    y[:, outs] = conv(x[:, ins], w[outs, ins]),    dx[:, ins] and dw[outs, ins] likewise

One kernel for each pass, that of the blocks: it gathers channels of its operands and scatters those
of its result, so that activations are read and written once, as in a dense convolution.
"""

from __future__ import annotations

import importlib

from torch import Tensor

from .blocks import Blocks, can_run


class Compacted(Blocks):
    """Blocks of a mask whose channels are counted with the dead ones last.

    Channels that keep nothing fill no block, and their results are bias or zero all the same.
    """

    name = "compaction"
    serves = "whole filters or channels pruned, no groups"

    @classmethod
    def for_mask(cls, mask: Tensor, groups: int) -> Compacted | None:
        """Return the kernel where it should be faster than plain blocks, which load more at once.

        mask: as in `ConvKernel.for_mask`.
        """
        if groups != 1 or not can_run(mask.device):
            return None
        orders = importlib.import_module("sparselth.kernels.blocks").order_channels(mask)
        if orders.outs is None and orders.ins is None:
            return None
        found, plain = cls(mask, groups, orders), Blocks(mask, groups)
        return found if found.relative_time < plain.relative_time else None
