"""The layers that every benchmark of a convolution uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import topk_mask

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)

# Down to no mask at all: what chooses between dense and sparse must hold there as well.
AUTO_SPARSITIES = (0.0, *SPARSITIES)


@dataclass(frozen=True)
class Layer:
    """A convolution as it is met in training. channels: in and out; size: height and width."""

    batch: int
    channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1

    def __str__(self) -> str:
        extra = f"-k{self.kernel}" * (self.kernel != 3) + f"-s{self.stride}" * (self.stride != 1)
        extra += "-depthwise" * (self.groups == self.channels)
        return f"N{self.batch}-C{self.channels}-H{self.size}{extra}"


LAYERS = (
    Layer(64, 64, 32),
    Layer(64, 128, 16),
    Layer(64, 256, 8),
    Layer(64, 512, 4),
    Layer(128, 16, 32),
    Layer(128, 32, 16),
    Layer(128, 64, 8),
    Layer(64, 128, 16, stride=2),
    Layer(64, 128, 16, kernel=1),
    Layer(64, 128, 16, groups=128),
)


@dataclass(frozen=True)
class ConvProblem:
    """The tensors of one masked convolution, and the gradient that comes back to it.

    x: (N, C_in, H, W).  weight, mask: (C_out, C_in / groups, k, k).  grad: the output's shape.
    All contiguous, float32 but for the mask.
    """

    x: Tensor
    weight: Tensor
    mask: Tensor
    grad: Tensor
    stride: int
    padding: int
    groups: int = 1


def conv_problem(layer: Layer, sparsity: float) -> ConvProblem:
    """Draw the tensors of a layer, with a random mask."""
    x = torch.randn(layer.batch, layer.channels, layer.size, layer.size)
    weight = torch.randn(layer.channels, layer.channels // layer.groups, layer.kernel, layer.kernel)
    mask = topk_mask(torch.rand_like(weight), round((1 - sparsity) * weight.numel()))
    assert isinstance(mask, Tensor)
    stride, padding, groups = layer.stride, layer.kernel // 2, layer.groups
    y = F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
    return ConvProblem(x, weight, mask, torch.randn_like(y), stride, padding, groups)
