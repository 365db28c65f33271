"""What the networks share: the convolution block and the initialization."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from torch import nn

from ..checks import check_number, check_whole

_Network = TypeVar("_Network", bound=nn.Module)


def check_sizes(name: str, num_classes: int, in_channels: int, width: float) -> None:
    """Refuse numbers that no network can have. Raises SparselthError naming the model."""
    check_whole(f"num_classes of model '{name}'", num_classes, 1)
    check_whole(f"in_channels of model '{name}'", in_channels, 1)
    check_number(f"width of model '{name}'", width, above=0)


def sized(build: Callable[[int, int, float], _Network]) -> Callable[..., _Network]:
    """Return what builds a network behind `check_sizes`."""

    @wraps(build)
    def checked(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> _Network:
        check_sizes(build.__name__, num_classes, in_channels, width)
        return build(num_classes, in_channels, width)

    return checked


def scaled(channels: int, width: float) -> int:
    """Scale a number of channels by `width`, keeping at least one."""
    return max(1, round(channels * width))


def conv(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Make a convolution without bias (a batch norm follows) that keeps the size at stride 1."""
    padding = kernel // 2
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)


def initialize(module: nn.Module) -> None:
    """Initialize convolutions and batch norms as the paper's group does.

    Linear layers keep torch's default unless a network sets its own.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
