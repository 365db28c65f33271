"""What the networks share: the convolution block and the initialisation."""

from __future__ import annotations

from torch import nn


def scaled(channels: int, width: float) -> int:
    """Scale a number of channels by `width`, keeping at least one."""
    return max(1, round(channels * width))


def conv(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Make a convolution without bias (a batch norm follows) that keeps the size at stride 1."""
    padding = kernel // 2
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)


def initialise(module: nn.Module) -> None:
    """Initialise convolutions and batch norms as the paper's group does.

    Linear layers keep torch's default unless a network sets its own.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
