"""Masks as lists of single kept weights: what `unstructured_conv2d` walks on a GPU.

Rows are what a pass computes (outputs; inputs for the input gradient), columns what it sums over.
Rows are dealt to slots, those with the most entries first, and a plan lists the entries by
(8 slots, 32 columns, slot): what one warp meets in one stretch of shared memory.
`csrc/cuda/unstructured_tile.cuh` holds the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..contract import OPS, ConvSettings, output_size
from .kernel import ConvKernel, has_cuda_kernels
from .rates import slower_than_cudnn

# As in unstructured_tile.cuh.
_SLOTS, _ROWS, _COLUMNS, _TILE_BYTES = 8, 64, 32, 72 << 10
_LARGEST_KERNEL = 255


class UnstructuredIndex(NamedTuple):
    """The plans of one mask, by output and by input channel: int32 (length,) on its device."""

    by_output: Tensor
    by_input: Tensor


def find_unstructured(mask: Tensor, groups: int = 1) -> UnstructuredIndex:
    """List the kept weights of a convolution, for its three passes.

    mask: bool (C_out, C_in / groups, kH, kW), on any device.
    Returns plans for `unstructured_conv2d`, whose grad_weight takes that by output as well.
    """
    return UnstructuredIndex(
        _plan(mask, groups, by_input=False), _plan(mask, groups, by_input=True)
    )


def _plan(mask: Tensor, groups: int, by_input: bool) -> Tensor:
    outputs, inputs, height, width = mask.shape
    out, channel, tap_row, tap_column = mask.nonzero().unbind(1)
    position = ((out * inputs + channel) * height + tap_row) * width + tap_column
    channel = channel + out // (outputs // groups) * inputs
    row, column, rows, columns = out, channel, outputs, inputs * groups
    if by_input:
        row, column, rows, columns = channel, out, inputs * groups, outputs
        # Seen from the input, the taps are turned around.
        tap_row, tap_column = height - 1 - tap_row, width - 1 - tap_column

    slots, chunks = -(-rows // _ROWS) * _ROWS, -(-columns // _COLUMNS)
    order = torch.bincount(row, minlength=rows).argsort(descending=True, stable=True)
    row_of_slot = row.new_full((slots,), -1)
    row_of_slot[:rows] = order
    slot = torch.empty_like(order).scatter_(0, order, torch.arange(rows, device=mask.device))[row]

    run = (slot // _SLOTS * chunks + column // _COLUMNS) * _SLOTS + slot % _SLOTS
    run, by_run = run.sort(stable=True)
    ends = torch.bincount(run, minlength=slots * chunks).cumsum(0)
    code = column % _COLUMNS | tap_row << 5 | tap_column << 13 | slot % _SLOTS << 21
    parts = (row_of_slot, ends.new_zeros(1), ends, code[by_run], position[by_run])
    return torch.cat(parts).to(torch.int32)


def fits_shared_memory(
    columns: int, kernel: Sequence[int], stride: int, dilation: Sequence[int], out_w: int
) -> bool:
    """Say whether a tile of one pixel per lane fits into shared memory.

    columns: channels that are summed over.  stride: horizontal; 1 for an input gradient.
    out_w: width of the pass's result.
    """
    if max(kernel) > _LARGEST_KERNEL:
        return False
    tile_w = min(32, 1 << max(out_w - 1, 0).bit_length())
    plane_h, plane_w = (dilation[i] * (kernel[i] - 1) + 1 for i in range(2))
    plane = plane_h * (plane_w + (tile_w - 1) * stride)
    if tile_w < 32:
        plane = (-(-plane // tile_w) | 1) * tile_w
    return min(columns, _COLUMNS) * (32 // tile_w) * plane * 4 <= _TILE_BYTES


def all_passes_fit(shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
    """Say whether all three passes of a convolution fit, see `fits_shared_memory`.

    shape: (C_out, C_in / groups, kH, kW).  conv: stride, padding, dilation, groups.
    """
    stride, padding, dilation, groups = conv
    kernel = shape[2:]
    out_w = output_size(input_hw[1], kernel[1], stride[1], padding[1], dilation[1])
    forward = fits_shared_memory(shape[1] * groups, kernel, stride[1], dilation, out_w)
    return forward and fits_shared_memory(shape[0], kernel, 1, dilation, input_hw[1])


class Unstructured(ConvKernel):
    """Single weights, each times 32 pixels at once."""

    name = "unstructured"
    serves = "single weights, a tile within 72 KiB"
    backend = "cuda"

    def __init__(self, mask: Tensor, groups: int) -> None:
        self.groups = groups
        density = float(mask.count_nonzero()) / max(mask.numel(), 1)
        self.relative_time = density * slower_than_cudnn(self.name)
        self._index: UnstructuredIndex | None = None

    @classmethod
    def for_mask(cls, mask: Tensor, groups: int) -> Unstructured | None:
        return cls(mask, groups) if has_cuda_kernels() else None

    def index(self, mask: Tensor) -> UnstructuredIndex:
        """Return the mask's single weights; found when they are wanted first."""
        if self._index is None:
            self._index = find_unstructured(mask, self.groups)
        return self._index

    def fits(self, shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
        return all_passes_fit(shape, input_hw, conv)

    def forward(self, input, weight, mask, bias, conv: ConvSettings) -> Tensor:
        """Return y, contiguous: each kept weight times 32 pixels at once, summed in float32."""
        index = self.index(mask).by_output
        return OPS.unstructured_conv2d(input, weight, mask, bias, index, *conv)

    def grad_input(self, grad_output, weight, mask, input_hw, conv: ConvSettings) -> Tensor:
        """Return dx, contiguous: the same weights, listed by input channel."""
        index = self.index(mask).by_input
        run = OPS.unstructured_conv2d_grad_input
        return run(grad_output, weight, mask, index, input_hw, *conv)

    def grad_weight(self, grad_output, input, mask, conv: ConvSettings) -> Tensor:
        """Return dw, contiguous: for each kept weight the sum over pixels of dy times x."""
        index = self.index(mask).by_output
        return OPS.unstructured_conv2d_grad_weight(grad_output, input, mask, index, *conv)
