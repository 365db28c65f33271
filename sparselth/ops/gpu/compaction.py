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

from ..contract import ConvSettings
from ..reference import apply_mask, convolution_backward
from .kernel import ConvKernel


@dataclass(frozen=True, eq=False)
class Compaction:
    """The filters and input channels of a mask that keep anything.

    outs, ins: int64 (O,) and (I,), ascending, on the mask's device; None stands for all of them,
    which costs no copy. There is at least one of each, even of a mask that keeps nothing.
    """

    outs: Tensor | None
    ins: Tensor | None
    density: float  # share of the weight that is left to multiply

    def weight(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Return what remains of a weight, the mask applied: (O, I, kH, kW).

        weight: (C_out, C_in, kH, kW).  mask: bool, its shape, of which this was found.
        """
        return _taken(_taken(apply_mask(weight, mask), 0, self.outs), 1, self.ins)


def find_compaction(mask: Tensor) -> Compaction:
    """Find what a convolution's mask leaves; on a GPU this waits for it once.

    mask: bool (C_out, C_in, kH, kW), of a convolution without groups.
    """
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


def _taken(values: Tensor, axis: int, indices: Tensor | None) -> Tensor:
    return values if indices is None else values.index_select(axis, indices)


def _filled(start: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return `start` expanded to a shape, in the layout of `like`."""
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return start.expand(shape).contiguous(memory_format=layout).clone(memory_format=layout)


class Compacted(ConvKernel):
    """cuDNN on what remains of a mask.

    Every pass copies out what it needs of its operands (`index_select`), and fills the rest of its
    result with zeros, of y with the bias. Results keep the layout that cuDNN gives them.
    """

    name = "compaction"
    serves = "whole filters or channels pruned, no groups"
    backend = "triton"  # forced with the kernels that serve where nothing can be left out

    def __init__(self, found: Compaction) -> None:
        self.found = found
        self.relative_time = found.density

    @classmethod
    def for_mask(cls, mask: Tensor, groups: int) -> Compacted | None:
        return cls(find_compaction(mask)) if groups == 1 else None

    def forward(self, input, weight, mask, bias, conv: ConvSettings) -> Tensor:
        """Return y[:, outs] = conv(x[:, ins], w[outs, ins]) + bias; the bias alone elsewhere."""
        outs, ins = self.found.outs, self.found.ins
        small = F.conv2d(
            _taken(input, 1, ins),
            self.found.weight(weight, mask),
            None if bias is None else _taken(bias, 0, outs),
            *conv[:3],
        )
        if outs is None:
            return small
        start = input.new_zeros(()) if bias is None else bias.view(1, -1, 1, 1)
        shape = (small.shape[0], weight.shape[0], *small.shape[2:])
        return _filled(start, shape, small).index_copy_(1, outs, small)

    def grad_input(self, grad_output, weight, mask, input_hw, conv: ConvSettings) -> Tensor:
        """Return dx[:, ins] = conv_transposed(dy[:, outs], w[outs, ins]); 0 elsewhere."""
        grads = _taken(grad_output, 1, self.found.outs)
        small_weight, ins = self.found.weight(weight, mask), self.found.ins
        shape = (grad_output.shape[0], small_weight.shape[1], *input_hw)
        small, _, _ = convolution_backward(
            grads, grads.new_empty(shape), small_weight, conv, [True, False, False]
        )
        if ins is None:
            return small
        dx = _filled(small.new_zeros(()), (shape[0], weight.shape[1], *input_hw), small)
        return dx.index_copy_(1, ins, small)

    def grad_weight(self, grad_output, input, mask, conv: ConvSettings) -> Tensor:
        """Return dw[outs, ins] = x[:, ins] correlated with dy[:, outs], where kept; 0 elsewhere."""
        outs, ins = self.found.outs, self.found.ins
        grads, images = _taken(grad_output, 1, outs), _taken(input, 1, ins)
        small_weight = images.new_empty(grads.shape[1], images.shape[1], *mask.shape[2:])
        _, small, _ = convolution_backward(grads, images, small_weight, conv, [False, True, False])
        dw = small
        if ins is not None:
            shape = (small.shape[0], *mask.shape[1:])
            dw = small.new_zeros(shape).index_copy_(1, ins, small.contiguous())
        if outs is not None:
            dw = small.new_zeros(mask.shape).index_copy_(0, outs, dw.contiguous())
        return apply_mask(dw.contiguous(), mask)
