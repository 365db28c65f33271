"""The block-sparse convolutions of `sparselth.kernels`, on tensor cores by Triton."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..contract import ConvSettings
from .packing import PackingKernel
from .rates import slower_than_cudnn
from .triton_support import why_missing


@cache
def launcher(op: str) -> Callable[..., Tensor]:
    """Return the launcher of a convolution; triton, slow to import, is imported with the first.

    op: a module of `sparselth.kernels`, whose function has its name.
    """
    return getattr(importlib.import_module(f"sparselth.kernels.{op}"), op)


def can_run(device: torch.device) -> bool:
    """Say whether the kernels run there; elsewhere than on a GPU the interpreter stands in."""
    return device.type != "cuda" or not why_missing()


class Blocks(PackingKernel):
    """Products of the blocks that keep anything, of the size that should cost least.

    A block is 16, 32 or 64 outputs x as many inputs of one tap; see `kernels/blocks.py`.
    """

    name = "blocks"
    serves = "any mask and geometry"
    backend = "triton"

    def __init__(self, mask: Tensor, groups: int, *orders: Any) -> None:
        blocks = importlib.import_module("sparselth.kernels.blocks")
        costs = {size: slower_than_cudnn(f"{self.name}{size}") for size in blocks.SIZES}
        self.index = blocks.cheapest_blocks(mask, groups, costs, *orders)
        self.relative_time = self.index.density * costs[self.index.size]

    @classmethod
    def for_mask(cls, mask: Tensor, groups: int) -> Blocks | None:
        return cls(mask, groups) if can_run(mask.device) else None

    def pack(self, weight: Tensor, mask: Tensor) -> Tensor:
        kernels = importlib.import_module("sparselth.kernels.masked_conv2d")
        return kernels.pack(weight, mask, self.index)

    def forward(self, input, weight, mask, bias, conv: ConvSettings) -> Tensor:
        """Return y, channels_last: a product per listed block and tile of output positions."""
        return self._forward(input, weight, mask, bias, conv)

    def forward_relu(self, input, weight, mask, bias, conv: ConvSettings) -> Tensor:
        """Return max(y, 0), channels_last, computed before y is stored."""
        return self._forward(input, weight, mask, bias, conv, relu=True)

    def _forward(self, input, weight, mask, bias, conv, relu=False) -> Tensor:
        packed, run = self.packed_anew(weight, mask), launcher("masked_conv2d")
        return run(input, weight, mask, bias, self.index, *conv[:3], relu=relu, packed=packed)

    def grad_input(self, grad_output, weight, mask, input_hw, conv: ConvSettings) -> Tensor:
        """Return dx, channels_last: the same blocks, read by input channel."""
        packed, run = self.packed_before(weight, mask), launcher("masked_conv2d_grad_input")
        return run(grad_output, weight, mask, self.index, input_hw, *conv[:3], packed=packed)

    def grad_weight(self, grad_output, input, mask, conv: ConvSettings) -> Tensor:
        """Return dw, contiguous: a product per listed block, stored where kept."""
        return launcher("masked_conv2d_grad_weight")(
            grad_output, input, mask, self.index, *conv[:3]
        )
