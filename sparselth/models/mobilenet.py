"""MobileNetV2 for 32 x 32 images: the stem and the second stage keep the image's size.

Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layers import conv, initialize, scaled, sized

# Of each stage: expansion, channels, blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project: (N, C_in, H, W) -> (N, C_out, H/s, W/s)."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [conv(in_channels, inner, kernel=1), nn.BatchNorm2d(inner)]
            layers.append(nn.ReLU6(inplace=True))
        layers += [conv(inner, inner, stride=stride, groups=inner), nn.BatchNorm2d(inner)]
        layers.append(nn.ReLU6(inplace=True))
        layers += [conv(inner, out_channels, kernel=1), nn.BatchNorm2d(out_channels)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class MobileNetV2(nn.Module):
    """Inverted residuals between two convolutions: (N, C, 32, 32) -> (N, classes).

    With 3 input channels 2,188,896 weights are prunable: every convolution but the first, depthwise
    ones included.
    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    """

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        previous, last = scaled(32, width), scaled(1280, width)
        self.stem = nn.Sequential(
            conv(in_channels, previous), nn.BatchNorm2d(previous), nn.ReLU6(inplace=True)
        )
        blocks = []
        for expansion, channels, count, stride in _STAGES:
            for index in range(count):
                out_channels = scaled(channels, width)
                step = stride if index == 0 else 1
                blocks.append(InvertedResidual(previous, out_channels, expansion, step))
                previous = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            conv(previous, last, kernel=1), nn.BatchNorm2d(last), nn.ReLU6(inplace=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(last, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of images x (N, C, H, W), of the weights' dtype."""
        x = self.head(self.blocks(self.stem(x)))
        return self.classifier(self.flatten(self.pool(x)))


@sized
def mobilenetv2(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> MobileNetV2:
    """Build MobileNetV2: seventeen inverted residuals.

    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    Raises SparselthError for numbers that no network can have.
    """
    return MobileNetV2(num_classes, in_channels, width)
