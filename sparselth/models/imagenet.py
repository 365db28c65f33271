"""torchvision's networks for the images of ImageNet, 224 x 224 or any size above 32, untrained.

Reference: He et al., "Deep Residual Learning for Image Recognition", 2016, table 1; Sandler et al.,
"MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2.
"""

from __future__ import annotations

from types import ModuleType

from torch import nn

from ..errors import SparselthError
from .layers import sized


@sized
def resnet18_imagenet(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """Build torchvision's ResNet-18: (N, 3, H, W) -> (N, classes); its width is fixed.

    num_classes: logits.  in_channels: 3.  width: 1.0, the only one.
    Raises SparselthError for other numbers, or where torchvision is not installed.
    """
    models = _torchvision("resnet18-imagenet", in_channels)
    _check_width("resnet18-imagenet", width)
    return models.resnet18(weights=None, num_classes=num_classes)


@sized
def resnet50_imagenet(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """Build torchvision's ResNet-50: (N, 3, H, W) -> (N, classes); its width is fixed.

    num_classes: logits.  in_channels: 3.  width: 1.0, the only one.
    Raises SparselthError for other numbers, or where torchvision is not installed.
    """
    models = _torchvision("resnet50-imagenet", in_channels)
    _check_width("resnet50-imagenet", width)
    return models.resnet50(weights=None, num_classes=num_classes)


@sized
def mobilenetv2_imagenet(
    num_classes: int = 10, in_channels: int = 3, width: float = 1.0
) -> nn.Module:
    """Build torchvision's MobileNetV2: (N, 3, H, W) -> (N, classes).

    num_classes: logits.  in_channels: 3.  width: multiplies the channels of every layer;
    torchvision rounds them to multiples of 8, and keeps 1280 last ones below width 1.
    Raises SparselthError for other numbers, or where torchvision is not installed.
    """
    models = _torchvision("mobilenetv2-imagenet", in_channels)
    return models.mobilenet_v2(weights=None, num_classes=num_classes, width_mult=width)


def _torchvision(name: str, in_channels: int) -> ModuleType:
    if in_channels != 3:
        raise SparselthError(
            f"model '{name}' got in_channels={in_channels}, expected 3, as torchvision builds it "
            "for color images; choose a data set in color or a model without '-imagenet'"
        )
    try:
        from torchvision import models
    except ImportError as error:
        raise SparselthError(
            f"model '{name}' is torchvision's, which cannot be imported here ({error}); "
            "run: pip install 'sparselth[images]'"
        ) from error
    return models


def _check_width(name: str, width: float) -> None:
    if width != 1.0:
        raise SparselthError(
            f"model '{name}' got width={width}, expected 1.0, the only width torchvision builds it "
            "in; leave width out, or choose mobilenetv2-imagenet"
        )
