"""Masks covered by vectors of rows: what `column_vector_conv2d` walks on a GPU's tensor cores.

Rows are what a pass computes (outputs; inputs for the input gradient), in groups of 16 or 8
neighbors.
A vector is one column (a channel that is summed over, and a tap) in which some row of the group
keeps its weight. Groups are dealt to slots, those with the most vectors first, and a plan lists the
vectors by (slot, 32 channels), filled up to whole k-steps of 16.
`csrc/cuda/column_vector_conv2d.cu` holds the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import OPS, ConvSettings, output_size
from ..reference import masked_conv2d_grad_input, masked_conv2d_grad_weight
from .kernel import ConvKernel, has_cuda_kernels
from .rates import slower_than_cudnn

# As in column_vector_tile.cuh.
_ROWS, _STEP, _COLUMNS, _PIXELS, _TILE_BYTES = 64, 16, 32, 32, 96 << 10
_LARGEST_KERNEL, _FILLER = 255, 1 << 21


# Rows of a vector.
LENGTHS = (16, 8)


class ColumnVectorIndex(NamedTuple):
    """The plans of one mask, by output and by input channel: int32 (length,) on its device."""

    by_output: Tensor
    by_input: Tensor


def find_column_vectors(mask: Tensor, length: int) -> ColumnVectorIndex:
    """Cover the kept weights of a convolution without groups by vectors, for two of its passes.

    mask: bool (C_out, C_in, kH, kW), on any device.  length: of a vector, one of `LENGTHS`.
    """
    by_output = _plan(mask, length, by_input=False)
    return ColumnVectorIndex(by_output, _plan(mask.transpose(0, 1), length, by_input=True))


def densities(mask: Tensor, length: int) -> tuple[float, float]:
    """Return the shares of the weight that the forward and the input gradient multiply.

    mask: bool (C_out, C_in, kH, kW), on any device.  length: of a vector.
    """
    forward, backward = (
        float(_covered(m, length).float().mean()) for m in (mask, mask.transpose(0, 1))
    )
    return forward, backward


def _covered(rows_first: Tensor, length: int) -> Tensor:
    """Return where vectors are: bool (groups, columns, kH, kW)."""
    missing = -len(rows_first) % length
    whole = F.pad(rows_first, (0, 0, 0, 0, 0, 0, 0, missing))
    return whole.unflatten(0, (-1, length)).any(1)


def _plan(rows_first: Tensor, length: int, by_input: bool) -> Tensor:
    rows, columns, height, width = rows_first.shape
    slots, chunks = -(-rows // _ROWS) * (_ROWS // length), -(-columns // _COLUMNS)
    group, column, tap_row, tap_column = _covered(rows_first, length).nonzero().unbind(1)
    if by_input:  # seen from the input, the taps are turned around
        tap_row, tap_column = height - 1 - tap_row, width - 1 - tap_column

    order = torch.bincount(group, minlength=slots).argsort(descending=True, stable=True)
    group_of_slot = torch.where(order * length < rows, order, -1)
    slot = torch.empty_like(order).scatter_(0, order, torch.arange(slots, device=order.device))
    run = slot[group] * chunks + column // _COLUMNS
    run, code = _dealt(
        run,
        column % _COLUMNS | tap_row << 5 | tap_column << 13,
        _bank(column % _COLUMNS, tap_row, tap_column, height, width),
    )

    counts = torch.bincount(run, minlength=slots * chunks)
    steps = -(-counts // _STEP)
    ends = steps.cumsum(0)
    # Where each vector goes; what fills a k-step up repeats the run's last column, times zero.
    starts = ends - steps
    rank = torch.arange(len(run), device=run.device) - (counts.cumsum(0) - counts)[run]
    places = int(ends[-1]) * _STEP
    codes = code.new_full((places,), -1)
    codes[starts[run] * _STEP + rank] = code
    filled = torch.repeat_interleave(steps * _STEP - counts)
    last = (counts.cumsum(0) - 1)[filled]
    codes[codes < 0] = code[last] | _FILLER
    parts = (group_of_slot, ends.new_zeros(1), ends, codes)
    return torch.cat(parts).to(torch.int32)


def _bank(column: Tensor, tap_row: Tensor, tap_column: Tensor, height: int, width: int) -> Tensor:
    """Return which eighth of the banks a column's row begins in, in a tile of 4 x 8 pixels."""
    plane_w = 8 + width - 1
    plane = (4 + height - 1) * plane_w | 1
    return (column * plane + tap_row * plane_w + tap_column) % 8


def _dealt(run: Tensor, code: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Sort vectors by run, those of one run so that neighbors are of different banks."""
    by_bank = (run * 8 + bank).argsort(stable=True)
    key = (run * 8 + bank)[by_bank]
    rank = torch.arange(len(key), device=key.device) - torch.searchsorted(key, key)
    by_rank = rank.argsort(stable=True)
    order = by_bank[by_rank]
    order = order[run[order].argsort(stable=True)]
    return run[order], code[order]


def fits_shared_memory(
    columns: int, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out_w
) -> bool:
    """Say whether a tile fits into shared memory.

    columns: channels that are summed over.  stride: 1 for an input gradient.
    out_w: width of the pass's result.
    """
    if max(kernel) > _LARGEST_KERNEL:
        return False
    tile_w = min(8, 1 << max(out_w - 1, 0).bit_length())
    tile = (_PIXELS // tile_w, tile_w)
    plane_h, plane_w = (
        (tile[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in range(2)
    )
    rows = -(-min(columns, _COLUMNS) // 4) * 4
    return rows * (plane_h * plane_w | 1) * 16 <= _TILE_BYTES


def all_passes_fit(shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
    """Say whether the forward and the input gradient fit, see `fits_shared_memory`.

    shape: (C_out, C_in, kH, kW).  conv: stride, padding, dilation, groups.
    """
    stride, padding, dilation, _ = conv
    kernel = shape[2:]
    out_w = output_size(input_hw[1], kernel[1], stride[1], padding[1], dilation[1])
    return fits_shared_memory(shape[1], kernel, stride, dilation, out_w) and fits_shared_memory(
        shape[0], kernel, (1, 1), dilation, input_hw[1]
    )


class ColumnVector(ConvKernel):
    """Vectors of weights on tensor cores; gradients by cuDNN where they would be slower."""

    backend = "cuda"
    serves = "no groups, a tile within 96 KiB"
    dtypes = (torch.float16, torch.bfloat16)
    length: ClassVar[int]

    def __init__(self, mask: Tensor) -> None:
        slower = slower_than_cudnn(self.name)
        forward, backward = (density * slower for density in densities(mask, self.length))
        # Vectors of outputs are seldom vectors of inputs, too.
        self.goes_back_by_vectors = backward < 1.0
        self.relative_time = (forward + min(backward, 1.0) + 1.0) / 3
        self._index: ColumnVectorIndex | None = None

    @classmethod
    def for_mask(cls, mask: Tensor, groups: int) -> ColumnVector | None:
        return cls(mask) if has_cuda_kernels() and groups == 1 else None

    def index(self, mask: Tensor) -> ColumnVectorIndex:
        """Return the vectors that cover the mask; found when they are wanted first."""
        if self._index is None:
            self._index = find_column_vectors(mask, self.length)
        return self._index

    def fits(self, shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
        return all_passes_fit(shape, input_hw, conv)

    def forward(self, input, weight, mask, bias, conv: ConvSettings) -> Tensor:
        """Return y, channels_last, from x in channels_last: converted if it is not."""
        index, run = self.index(mask).by_output, OPS.column_vector_conv2d
        return run(_channels_last(input), weight, mask, bias, index, self.length, *conv)

    def grad_input(self, grad_output, weight, mask, input_hw, conv: ConvSettings) -> Tensor:
        """Return dx: by vectors of inputs, channels_last, or by cuDNN where that is faster."""
        if not self.goes_back_by_vectors:
            return masked_conv2d_grad_input(grad_output, weight, mask, None, input_hw, *conv)
        index, run = self.index(mask).by_input, OPS.column_vector_conv2d_grad_input
        grad = _channels_last(grad_output)
        return run(grad, weight, mask, index, self.length, input_hw, *conv)

    def grad_weight(self, grad_output, input, mask, conv: ConvSettings) -> Tensor:
        """Return dw, contiguous, by cuDNN, zero where pruned: the sparse ones are slower."""
        return masked_conv2d_grad_weight(grad_output, input, mask, None, *conv)


class ColumnVector16(ColumnVector):
    """By vectors of 16 weights."""

    name = "column_vector16"
    length = 16


class ColumnVector8(ColumnVector):
    """By vectors of 8 weights."""

    name = "column_vector8"
    length = 8


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
