"""The networks of the paper and its kin for 32 x 32 images, by name, with scalable width."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import SparselthError, unknown_name
from .conv4 import Conv4, conv4
from .mobilenet import MobileNetV2, mobilenetv2
from .resnet import ResNet, resnet18, resnet20, resnet32, resnet56
from .vgg import VGG, vgg11, vgg16

REGISTRY: dict[str, Callable[[int, int, float], nn.Module]] = {
    "conv4": conv4,
    "mobilenetv2": mobilenetv2,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "vgg11": vgg11,
    "vgg16": vgg16,
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


__all__ = [
    "REGISTRY",
    "VGG",
    "Conv4",
    "MobileNetV2",
    "ResNet",
    "build",
    "conv4",
    "mobilenetv2",
    "names",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet56",
    "vgg11",
    "vgg16",
]
