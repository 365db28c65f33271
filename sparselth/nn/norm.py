"""Batch norm that lets activations enter the layout of the masked convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import Proxy

from ..ops.backends import forced
from ..ops.lanes.convert import can_use_lanes, enter_lanes
from .recording import NotScriptable, recorded


class LaneBatchNorm2d(NotScriptable, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that computes on activations in lanes. Made by `sparsify`.

    After a masked convolution its input is in lanes already. After any other layer, such as the
    dense first convolution, it converts: the ReLU, the addition or the pooling that follow are
    then one pass over memory, and the next masked convolution has nothing left to convert.
    """

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return recorded(self, (input,), {})
        if forced() != "reference" and can_use_lanes(input):
            input = enter_lanes(input)
        return super().forward(input)
