"""What Python does for one masked convolution on a GPU, besides launching the kernels.

Runs on the host: the kernel is one that hands out results prepared beforehand. `bare` calls it
alone; what lies between the two is finding the candidates of the mask and choosing among them.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparselth.bench.ratios import Ratio
from sparselth.ops.gpu import candidates, conv
from sparselth.ops.gpu.kernel import ConvKernel

SETTINGS = ([1, 1], [1, 1], [1, 1], 1)


class Prepared(ConvKernel):
    """A kernel that computes nothing."""

    name, backend = "prepared", "triton"
    relative_time = 0.1
    y = dx = torch.zeros(1, 16, 8, 8)
    dw = torch.zeros(16, 16, 3, 3)

    @classmethod
    def for_mask(cls, mask, groups):
        return cls()

    def forward(self, input, weight, mask, bias, conv):
        return self.y

    def grad_input(self, grad_output, weight, mask, input_hw, conv):
        return self.dx

    def grad_weight(self, grad_output, input, mask, conv):
        return self.dw


@pytest.mark.parametrize("seen_as", ["conv2d", "conv1d"])
def bench_gpu_host(compare, monkeypatch, seen_as):
    monkeypatch.setattr(candidates, "KERNELS", (Prepared,))
    layer = nn.Conv2d(16, 16, 3, padding=1)
    weight, mask = layer.weight.detach(), torch.rand(layer.weight.shape) < 0.1
    x, kernel = torch.randn(1, 16, 8, 8), Prepared()
    images = mask.flatten(2)  # a Conv1d's mask is seen through a view that each call makes

    def ours() -> None:
        for _ in range(1000):
            seen = mask if seen_as == "conv2d" else images.view(mask.shape)
            y = conv.masked_conv2d(x, weight, seen, None, None, *SETTINGS)
            conv.masked_conv2d_grad_input(y, weight, seen, None, [8, 8], *SETTINGS)
            conv.masked_conv2d_grad_weight(y, x, seen, None, *SETTINGS)

    def bare() -> None:
        for _ in range(1000):
            seen = mask if seen_as == "conv2d" else images.view(mask.shape)
            y = kernel.forward(x, weight, seen, None, SETTINGS)
            kernel.grad_input(y, weight, seen, [8, 8], SETTINGS)
            kernel.grad_weight(y, x, seen, SETTINGS)

    compare(
        {"ours": ours, "bare": bare},
        Ratio("the kernels alone", ("bare",), ours=("ours",)),
        op="Python of 1000 masked convolutions on a GPU, forward and backward",
        problem=seen_as,
        sparsity=0.9,
    )
