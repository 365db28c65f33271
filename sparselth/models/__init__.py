"""The networks of the paper and its kin for 32 x 32 images, by name, with scalable width.

Besides them torchvision's for larger images, `...-imagenet`, and any of the user's own, named by
the function that makes it: `module:function`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import SparselthError, unknown_name
from . import factory
from .conv4 import Conv4, conv4
from .imagenet import mobilenetv2_imagenet, resnet18_imagenet, resnet50_imagenet
from .layers import check_sizes
from .mobilenet import MobileNetV2, mobilenetv2
from .resnet import ResNet, resnet18, resnet20, resnet32, resnet56
from .vgg import VGG, vgg11, vgg16

REGISTRY: dict[str, Callable[[int, int, float], nn.Module]] = {
    "conv4": conv4,
    "mobilenetv2": mobilenetv2,
    "mobilenetv2-imagenet": mobilenetv2_imagenet,
    "resnet18": resnet18,
    "resnet18-imagenet": resnet18_imagenet,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet50-imagenet": resnet50_imagenet,
    "resnet56": resnet56,
    "vgg11": vgg11,
    "vgg16": vgg16,
}


def names() -> list[str]:
    """List the names that `build` knows; it takes any `module:function` besides."""
    return sorted(REGISTRY)


def check(name: str) -> None:
    """Check that `build` can find a model; the module of a `module:function` is imported for it.

    name: as for `build`.

    Raises `SparselthError` for an unknown name, a module that cannot be imported, or one without
    the function.
    """
    if isinstance(name, str) and name in REGISTRY:
        return
    if not isinstance(name, str) or not factory.is_factory(name):
        raise SparselthError(
            f"{unknown_name('model', name, REGISTRY)}, or module:function for a network of your own"
        )
    factory.find(name)


def build(name: str, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """Build a freshly initialized network from torch's global random state.

    name: one of `names()` or `module:function`: a function, or class, which is called with those of
    the three keywords that its signature takes (see `factory.build`).
    num_classes: logits.  in_channels: of the images; 3 for color.
    width: multiplies the number of channels of every layer; 1.0 is the paper's network.
    Seed with `torch.manual_seed` first to get the same weights again. It is float32, on the CPU.

    Raises `SparselthError` for an unknown name, or a number that no network can have.
    """
    check(name)
    check_sizes(name, num_classes, in_channels, width)
    if name in REGISTRY:
        return REGISTRY[name](num_classes, in_channels, width)
    return factory.build(name, num_classes, in_channels, width)


__all__ = [
    "REGISTRY",
    "VGG",
    "Conv4",
    "MobileNetV2",
    "ResNet",
    "build",
    "check",
    "conv4",
    "mobilenetv2",
    "mobilenetv2_imagenet",
    "names",
    "resnet18",
    "resnet18_imagenet",
    "resnet20",
    "resnet32",
    "resnet50_imagenet",
    "resnet56",
    "vgg11",
    "vgg16",
]
