"""The paper's networks for 32 x 32 images, by name, with scalable width."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import SparselthError, unknown_name
from .resnet import ResNet, resnet20
from .vgg import VGG, vgg11

REGISTRY: dict[str, Callable[[int, int, float], nn.Module]] = {
    "resnet20": resnet20,
    "vgg11": vgg11,
}


def names() -> list[str]:
    """List the names that `build` knows."""
    return sorted(REGISTRY)


def build(name: str, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """Build a freshly initialised network from torch's global random state.

    `width` multiplies the number of channels of every layer; 1.0 is the paper's network. Seed with
    `torch.manual_seed` first to get the same weights again.

    Raises `SparselthError` for an unknown name, or a number that no network can have.
    """
    if name not in REGISTRY:
        raise unknown_name("model", name, REGISTRY)
    if num_classes < 1 or in_channels < 1 or not width > 0:
        raise SparselthError(
            f"model '{name}' got num_classes={num_classes}, in_channels={in_channels}, "
            f"width={width}; all three must be positive."
        )
    return REGISTRY[name](num_classes, in_channels, width)


__all__ = ["REGISTRY", "VGG", "ResNet", "build", "names", "resnet20", "vgg11"]
