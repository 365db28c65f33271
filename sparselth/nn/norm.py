"""Batch norm that lets activations enter the layout of the masked convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import Proxy

from ..ops.backends import forced
from ..ops.lanes.convert import can_use_lanes, enter_lanes
from .recording import NotScriptable, recorded


class LaneBatchNorm2d(NotScriptable, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that computes on activations in lanes.

    Made by `sparsify`, with the arguments and the state dict of `nn.BatchNorm2d`. After a masked
    convolution its input is in lanes already. After any other layer, such as the dense first
    convolution, it converts: the ReLU, the addition or the pooling that follow are then one pass
    over memory, and the next masked convolution has nothing left to convert.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return batch norm of `input` (N, C, H, W), in lanes where it can be.

        On the CPU, float32 or float64, the result is in lanes; plain otherwise, and where the
        reference is forced. Raises PyTorch's own errors.
        """
        if isinstance(input, Proxy):
            return recorded(self, (input,), {})
        if forced() != "reference" and can_use_lanes(input):
            input = enter_lanes(input)
        return super().forward(input)
