"""masked_conv2d_grad_input: the input gradient, by the forward's kernel on a transposed index.

    dx[n, h, w, i] = sum over kept (o, r, s) with sh | h + ph - r dh and sw | w + pw - s dw of
                     dy[n, (h + ph - r dh) / sh, (w + pw - s dw) / sw, o] w[o, i, r, s]

Rows are blocks of input channels, and the same packed blocks are read the other way round. With a
stride each remainder of (h, w) is a launch of its own, with the taps that reach it: nothing is
scattered, nothing multiplied in vain. Cost and types: see `masked_conv2d.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks import BlockIndex, grad_input_walks
from .masked_conv2d import channels_last, pack, run_walks
from .tables import guard


def masked_conv2d_grad_input(
    grad_output: Tensor, weight: Tensor, mask: Tensor, index: BlockIndex, input_hw: Sequence[int],
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], *,
    packed: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return dx (N, C_in, *input_hw), channels_last, the dtype of grad_output.

    grad_output: dy (N, C_out, H_out, W_out), on a GPU; converted where it is not channels_last.
    weight, mask, index, stride, padding, dilation, packed: the forward's, see `masked_conv2d.py`.
    input_hw: (H, W) of the input, in pixels.
    """
    height, width = input_hw
    dx = grad_output.new_empty(grad_output.shape[0], index.shape[1] * index.groups, height, width)
    dx = torch.empty_like(dx, memory_format=torch.channels_last)
    pairs = (tuple(pair) for pair in (stride, padding, dilation))
    walks = grad_input_walks(index, (height, width), *pairs)
    with guard(grad_output.device):
        dy = channels_last(grad_output)
        packed = pack(weight, mask, index) if packed is None else packed
        run_walks(dy, packed, None, dx, walks, index, transposed=True)
    return dx
