"""Masks as blocks of 32 x 32 weights: what `halo_block_conv2d` walks on a GPU's tensor cores.

A pass computes rows (outputs; inputs for the input gradient) from columns, 32 by 32. A plan lists
the blocks that keep anything by (32 rows, 32 columns), and of those by tap.
`csrc/cuda/halo_block_conv2d.cu` holds the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import OPS, ConvSettings, output_size
from ..reference import masked_conv2d_grad_weight
from .kernel import ConvKernel, has_cuda_kernels
from .rates import slower_than_cudnn

# As in halo_block_conv2d.cu.
_EDGE, _PIXELS, _MOST_TILE, _TILE_BYTES, _PIXEL_BYTES = 32, 256, 16, 96 << 10, 64
_LARGEST_KERNEL = 255


class HaloBlockIndex(NamedTuple):
    """The plans of one mask, by output and by input channel: int32 (length,) on its device."""

    by_output: Tensor
    by_input: Tensor


def find_halo_blocks(mask: Tensor) -> HaloBlockIndex:
    """List the blocks of a convolution without groups, for two of its passes.

    mask: bool (C_out, C_in, kH, kW), on any device.
    """
    listed = _listed(mask)
    # Seen from the input, rows are inputs and the taps are turned around.
    return HaloBlockIndex(_plan(listed), _plan(listed.transpose(0, 1).flip(2, 3)))


def _listed(mask: Tensor) -> Tensor:
    """Return which blocks keep anything: bool (rows / 32, columns / 32, kH, kW), rounded up."""
    c_out, c_in = mask.shape[:2]
    whole = F.pad(mask, (0, 0, 0, 0, 0, -c_in % _EDGE, 0, -c_out % _EDGE))
    return whole.unflatten(1, (-1, _EDGE)).unflatten(0, (-1, _EDGE)).any(3).any(1)


def _plan(listed: Tensor) -> Tensor:
    row, column, tap_row, tap_column = listed.nonzero().unbind(1)  # in this order already
    run = row * listed.shape[1] + column
    counts = torch.bincount(run, minlength=listed.shape[0] * listed.shape[1])
    parts = (counts.new_zeros(1), counts.cumsum(0), tap_row | tap_column << 8, run)
    return torch.cat(parts).to(torch.int32)


def fits_shared_memory(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out_hw: Sequence[int]
) -> bool:
    """Say whether a tile and its halo fit into shared memory.

    stride: 1 for an input gradient.  out_hw: (height, width) of the pass's result.
    """
    if max(kernel) > _LARGEST_KERNEL:
        return False
    tile = [min(_MOST_TILE, 1 << max(extent - 1, 0).bit_length()) for extent in out_hw]
    plane_h, plane_w = (
        (tile[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in range(2)
    )
    pixels = plane_h * plane_w * (_PIXELS // (tile[0] * tile[1]))
    return pixels * (_PIXEL_BYTES + 4) <= _TILE_BYTES


def all_passes_fit(shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
    """Say whether the forward and the input gradient fit, see `fits_shared_memory`.

    shape: (C_out, C_in, kH, kW).  conv: stride, padding, dilation, groups.
    """
    stride, padding, dilation, _ = conv
    out_hw = [
        output_size(input_hw[i], shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2)
    ]
    forward = fits_shared_memory(shape[2:], stride, dilation, out_hw)
    return forward and fits_shared_memory(shape[2:], (1, 1), dilation, input_hw)


class HaloBlocks(ConvKernel):
    """Blocks of 32 x 32 weights, each pixel fetched once for all taps; dw by cuDNN, masked."""

    name = "halo_blocks"
    serves = "no groups, a tile and its halo within 96 KiB"
    backend = "cuda"
    dtypes = (torch.float16, torch.bfloat16)

    def __init__(self, mask: Tensor) -> None:
        density = float(_listed(mask).float().mean())
        self.relative_time = (2 * density * slower_than_cudnn(self.name) + 1.0) / 3
        self._index: HaloBlockIndex | None = None

    @classmethod
    def for_mask(cls, mask: Tensor, groups: int) -> HaloBlocks | None:
        return cls(mask) if has_cuda_kernels() and groups == 1 else None

    def index(self, mask: Tensor) -> HaloBlockIndex:
        """Return the blocks of the mask; found when they are wanted first."""
        if self._index is None:
            self._index = find_halo_blocks(mask)
        return self._index

    def fits(self, shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
        return all_passes_fit(shape, input_hw, conv)

    def forward(self, input, weight, mask, bias, conv: ConvSettings) -> Tensor:
        """Return y, channels_last, from x in channels_last: converted if it is not."""
        run, x = OPS.halo_block_conv2d, input.contiguous(memory_format=torch.channels_last)
        return run(x, weight, mask, bias, self.index(mask).by_output, *conv)

    def grad_input(self, grad_output, weight, mask, input_hw, conv: ConvSettings) -> Tensor:
        """Return dx, channels_last, from dy in channels_last: converted if it is not."""
        run = OPS.halo_block_conv2d_grad_input
        grad = grad_output.contiguous(memory_format=torch.channels_last)
        return run(grad, weight, mask, self.index(mask).by_input, input_hw, *conv)

    def grad_weight(self, grad_output, input, mask, conv: ConvSettings) -> Tensor:
        """Return dw, contiguous, by cuDNN, zero where pruned."""
        return masked_conv2d_grad_weight(grad_output, input, mask, None, *conv)
