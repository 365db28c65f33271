"""Masks as blocks of 32 x 32 weights: what `halo_block_conv2d` walks on a GPU's tensor cores.

A pass computes rows (outputs; inputs for the input gradient) from columns, 32 by 32. A plan lists
the blocks that keep anything by (32 rows, 32 columns), and of those by tap. The weight gradient
goes by panels of 128 outputs x 128 inputs, whose blocks are dealt out to items of work. The layouts
are held by `csrc/cuda/halo_block_conv2d.cu` and `halo_block_conv2d_grad_weight.cu`.
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

# As in halo_block_tile.cuh and halo_block_panel.cuh.
_EDGE, _PIXELS, _MOST_TILE, _TILE_BYTES, _PIXEL_BYTES = 32, 256, 16, 96 << 10, 64
_LARGEST_KERNEL = 255
_PANEL_EDGE, _PANEL_PIXELS, _MOST_PANEL_TILE, _PANEL_PIXEL_BYTES = 4, 64, 8, 256
_WARPS, _SLOTS = 8, 5


class HaloBlockIndex(NamedTuple):
    """The plans of one mask, int32 (length,) on its device: by output, input, and panel of both."""

    by_output: Tensor
    by_input: Tensor
    by_panel: Tensor


def find_halo_blocks(mask: Tensor) -> HaloBlockIndex:
    """List the blocks of a convolution without groups, for each of its passes.

    mask: bool (C_out, C_in, kH, kW), on any device.
    """
    listed = _listed(mask)
    # Seen from the input, rows are inputs and the taps are turned around.
    return HaloBlockIndex(
        _plan(listed), _plan(listed.transpose(0, 1).flip(2, 3)), _plan_of_panels(listed)
    )


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


def _plan_of_panels(listed: Tensor) -> Tensor:
    """Deal a panel's blocks out to as few items as hold them, and an item's to its warps, evenly.

    Neighbors stay together: a warp whose blocks are of the same outputs loads their gradients once.
    """
    row, column, tap_row, tap_column = listed.nonzero().unbind(1)
    row_panels, column_panels = (-(-extent // _PANEL_EDGE) for extent in listed.shape[:2])
    panel = row // _PANEL_EDGE * column_panels + column // _PANEL_EDGE
    order = panel.argsort(stable=True)
    code = row % _PANEL_EDGE | column % _PANEL_EDGE << 2 | tap_row << 4 | tap_column << 12
    panel, code = panel[order], code[order]
    blocks = torch.bincount(panel, minlength=row_panels * column_panels)
    items = -(-blocks // (_WARPS * _SLOTS))
    rank = torch.arange(len(code), device=code.device) - (blocks.cumsum(0) - blocks)[panel]
    part, rank, share = _dealt(rank, blocks[panel], items[panel])
    item = (items.cumsum(0) - items)[panel] + part
    warp, slot, _ = _dealt(rank, share, torch.full_like(share, _WARPS))
    of_panel = torch.arange(len(items), device=items.device).repeat_interleave(items)
    words = torch.full((len(of_panel), 1 + _WARPS * _SLOTS), -1, device=code.device)
    words[:, 0] = of_panel
    words[item, 1 + warp * _SLOTS + slot] = code
    return words.flatten().to(torch.int32)


def _dealt(rank: Tensor, count: Tensor, hands: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Deal `count` to `hands`: return whose number `rank` is, its rank there, and how many are."""
    hand = rank * hands // count
    first, end = (-(-(hand + i) * count // hands) for i in range(2))
    return hand, rank - first, end - first


def _tile_pixels(
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    out_hw: Sequence[int],
    pixels: int,
    edge: int,
) -> int:
    """Return how many pixels a tile of `pixels` reads, of an image at most `edge` high and wide."""
    tile = [min(edge, 1 << max(extent - 1, 0).bit_length()) for extent in out_hw]
    plane_h, plane_w = (
        (tile[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in range(2)
    )
    return plane_h * plane_w * (pixels // (tile[0] * tile[1]))


def fits_shared_memory(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out_hw: Sequence[int]
) -> bool:
    """Say whether a tile and its halo fit into shared memory.

    stride: 1 for an input gradient.  out_hw: (height, width) of the pass's result.
    """
    pixels = _tile_pixels(kernel, stride, dilation, out_hw, _PIXELS, _MOST_TILE)
    return max(kernel) <= _LARGEST_KERNEL and pixels * (_PIXEL_BYTES + 4) <= _TILE_BYTES


def all_passes_fit(shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
    """Say whether the forward and the input gradient fit, see `fits_shared_memory`.

    shape: (C_out, C_in, kH, kW).  conv: stride, padding, dilation, groups.
    """
    forward = fits_shared_memory(shape[2:], conv[0], conv[2], _output_hw(shape, input_hw, conv))
    return forward and fits_shared_memory(shape[2:], (1, 1), conv[2], input_hw)


def grad_weight_fits(shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
    """Say whether the weight gradient's tiles of both activations fit: arguments as there."""
    kernel, out_hw = shape[2:], _output_hw(shape, input_hw, conv)
    halo = _tile_pixels(kernel, conv[0], conv[2], out_hw, _PANEL_PIXELS, _MOST_PANEL_TILE)
    pixels = _PANEL_PIXELS + halo + 1  # one of zeros
    return max(kernel) <= _LARGEST_KERNEL and pixels * (_PANEL_PIXEL_BYTES + 8) <= _TILE_BYTES


def _output_hw(shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> list[int]:
    stride, padding, dilation, _ = conv
    return [
        output_size(input_hw[i], shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2)
    ]


class HaloBlocks(ConvKernel):
    """Blocks of 32 x 32 weights, each pixel fetched once for all taps."""

    name = "halo_blocks"
    serves = "no groups, a tile and its halo within 96 KiB"
    backend = "cuda"
    dtypes = (torch.float16, torch.bfloat16)

    def __init__(self, mask: Tensor) -> None:
        density = float(_listed(mask).float().mean())
        self.relative_time = density * slower_than_cudnn(self.name)
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
        """Return dw, contiguous, zero where pruned; by cuDNN where its tile is too large."""
        if not grad_weight_fits(mask.shape, input.shape[2:], conv):
            return masked_conv2d_grad_weight(grad_output, input, mask, None, *conv)
        grad, x = (t.contiguous(memory_format=torch.channels_last) for t in (grad_output, input))
        index = self.index(mask).by_panel
        return OPS.halo_block_conv2d_grad_weight(grad, x, mask, index, *conv)
