"""Batch norm that lets activations enter the layout of the masked convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import Proxy

from ..ops.backends import forced
from ..ops.blocked import accepts, blocked
from .recording import NotScriptable, recorded


class BlockedBatchNorm2d(NotScriptable, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that computes on blocked activations. Made by `sparsify`.

    After a masked convolution its input is in blocks already. After any other layer, such as the
    dense first convolution, it converts: the ReLU, the addition or the pooling that follow are
    then one pass over memory, and the next masked convolution has nothing left to convert.
    """

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return recorded(self, (input,), {})
        if forced() != "reference" and accepts(input):
            input = blocked(input)
        return super().forward(input)
