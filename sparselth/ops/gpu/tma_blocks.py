"""Blocks whose pixels the hardware copies (Tensor Memory Accelerator): Hopper and Blackwell.

At stride 1 and in 16 bits, for the forward and the input gradient; the weight gradient is that of
`blocks.py`. Blocks may be wide, up to 128 channels of the result by 16 to 64 channels summed over,
which share each copy: for masks that are dense in places.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from ..contract import ConvSettings
from .blocks import Blocks
from .packing import PackingKernel
from .rates import slower_than_cudnn
from .triton_support import why_missing

# Of Blackwell's two kinds, that for workstations (12.0) has too little shared memory.
_CAPABILITIES = (9, 10)
# A descriptor's strides are multiples of 16 bytes.
_CHANNELS = 8

_KERNELS = "masked_conv2d_tma"


@cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(f"sparselth.kernels.{name}")


@cache
def why_no_tma(device: torch.device) -> str:
    """Say why a device cannot copy boxes of pixels by itself; nothing where it can."""
    if device.type != "cuda":
        return ""  # the interpreter stands in for it
    if missing := why_missing():
        return missing
    capability = torch.cuda.get_device_capability(device)
    if capability[0] not in _CAPABILITIES:
        found = ".".join(map(str, capability))
        return f"needs compute capability 9.0 or 10.0, this GPU has {found}"
    return ""


class TmaBlocks(PackingKernel):
    """Products of blocks with boxes of pixels; weight gradients by `Blocks`."""

    name = "tma_blocks"
    backend = "triton"
    dtypes = (torch.float16, torch.bfloat16)
    serves = "stride 1, no groups, channels in eights"

    def __init__(self, mask: Tensor) -> None:
        lists = _module("wide_blocks")
        costs = {
            shape: slower_than_cudnn(f"{self.name}{shape[0]}x{shape[1]}") for shape in lists.SHAPES
        }
        self.index = lists.cheapest_wide_blocks(mask, costs)
        self._square = Blocks(mask, 1)
        products = self.index.density * costs[self.index.depth, self.index.width]
        self.relative_time = (2 * products + self._square.relative_time) / 3

    @classmethod
    def for_mask(cls, mask: Tensor, groups: int) -> TmaBlocks | None:
        whole = mask.shape[0] % _CHANNELS == mask.shape[1] % _CHANNELS == 0
        return cls(mask) if groups == 1 and whole and not why_no_tma(mask.device) else None

    @classmethod
    def why_missing(cls, device: torch.device) -> str:
        return why_no_tma(device)

    def fits(self, shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
        return tuple(conv[0]) == (1, 1)

    def pack(self, weight: Tensor, mask: Tensor) -> Tensor:
        return _module(_KERNELS).pack(weight, mask, self.index)

    def forward(self, input, weight, mask, bias, conv: ConvSettings) -> Tensor:
        """Return y, channels_last: a product per listed block and tile of output positions."""
        return self._forward(input, weight, mask, bias, conv)

    def forward_relu(self, input, weight, mask, bias, conv: ConvSettings) -> Tensor:
        """Return max(y, 0), channels_last, computed before y is stored."""
        return self._forward(input, weight, mask, bias, conv, relu=True)

    def _forward(self, input, weight, mask, bias, conv, relu=False) -> Tensor:
        packed, run = self.packed_anew(weight, mask), _module(_KERNELS).masked_conv2d_tma
        return run(input, packed, bias, self.index, *conv[1:3], relu=relu)

    def grad_input(self, grad_output, weight, mask, input_hw, conv: ConvSettings) -> Tensor:
        """Return dx, channels_last, by the blocks that the same launch has packed."""
        packed, kernels = self.packed_before(weight, mask), _module(_KERNELS)
        run = kernels.masked_conv2d_tma_grad_input
        return run(grad_output, packed, self.index, input_hw, *conv[1:3])

    def grad_weight(self, grad_output, input, mask, conv: ConvSettings) -> Tensor:
        """Return dw, contiguous: a product per listed block, stored where kept."""
        return self._square.grad_weight(grad_output, input, mask, conv)
