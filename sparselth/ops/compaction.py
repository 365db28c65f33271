"""Empty filters and channels removed: a dense convolution of what remains, put back in its place.

    y[:, outs] = conv(x[:, ins], w[outs, ins]),    dx[:, ins] and dw[outs, ins] likewise

Exact for any mask. Where whole filters or channels are pruned nothing is faster: what remains runs
at the dense kernel's own rate, and (1 - s)^2 of the work is left when both are pruned by s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import convolution_backward, masked


@dataclass(frozen=True, eq=False)
class Compaction:
    """The filters and input channels of a mask that keep anything: int64 indices, ascending.

    None stands for all of them, which costs no copy.
    """

    outs: Tensor | None
    ins: Tensor | None
    density: float  # share of the weight that is left to multiply

    def weight(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Return what remains of a weight, the mask applied."""
        return _taken(_taken(masked(weight, mask), 0, self.outs), 1, self.ins)


def find_compaction(mask: Tensor) -> Compaction:
    """Find what a convolution's mask leaves.  mask: bool (C_out, C_in, kH, kW), without groups."""
    kept = [mask.transpose(0, axis).flatten(1).any(1) for axis in (0, 1)]
    for some in kept:
        some[:1] |= ~some.any()  # there is no convolution of nothing
    counts = torch.stack([k.sum() for k in kept]).tolist()
    outs, ins = (
        None if count == len(k) else k.nonzero().squeeze(1)
        for k, count in zip(kept, counts, strict=True)
    )
    total = max(mask.shape[0] * mask.shape[1], 1)
    return Compaction(outs, ins, counts[0] * counts[1] / total)


def masked_conv2d(input, weight, mask, bias, found: Compaction, stride, padding, dilation):
    """Return y. found: the mask's compaction."""
    small = F.conv2d(
        _taken(input, 1, found.ins),
        found.weight(weight, mask),
        None if bias is None else _taken(bias, 0, found.outs),
        stride,
        padding,
        dilation,
    )
    if found.outs is None:
        return small
    start = input.new_zeros(()) if bias is None else bias.view(1, -1, 1, 1)
    shape = (small.shape[0], weight.shape[0], *small.shape[2:])
    y = _filled(start, shape, small)
    return y.index_copy_(1, found.outs, small)


def masked_conv2d_grad_input(
    grad_output, weight, mask, found: Compaction, input_hw, stride, padding, dilation
):
    """Return dx. found: the mask's compaction."""
    grads, small_weight = _taken(grad_output, 1, found.outs), found.weight(weight, mask)
    shape = (grad_output.shape[0], small_weight.shape[1], *input_hw)
    conv = (stride, padding, dilation, 1)
    small, _, _ = convolution_backward(
        grads, grads.new_empty(shape), small_weight, conv, [True, False, False]
    )
    if found.ins is None:
        return small
    dx = _filled(small.new_zeros(()), (shape[0], weight.shape[1], *input_hw), small)
    return dx.index_copy_(1, found.ins, small)


def masked_conv2d_grad_weight(
    grad_output, input, mask, found: Compaction, stride, padding, dilation
):
    """Return dw, zero where the mask prunes. found: the mask's compaction."""
    grads, images = _taken(grad_output, 1, found.outs), _taken(input, 1, found.ins)
    small_weight = images.new_empty(grads.shape[1], images.shape[1], *mask.shape[2:])
    conv = (stride, padding, dilation, 1)
    _, small, _ = convolution_backward(grads, images, small_weight, conv, [False, True, False])
    dw = small
    if found.ins is not None:
        shape = (small.shape[0], *mask.shape[1:])
        dw = small.new_zeros(shape).index_copy_(1, found.ins, small.contiguous())
    if found.outs is not None:
        dw = small.new_zeros(mask.shape).index_copy_(0, found.outs, dw.contiguous())
    return masked(dw.contiguous(), mask)


def _taken(values: Tensor, axis: int, indices: Tensor | None) -> Tensor:
    return values if indices is None else values.index_select(axis, indices)


def _filled(start: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return `start` expanded to a shape, in the layout of `like`."""
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return start.expand(shape).contiguous(memory_format=layout).clone(memory_format=layout)
