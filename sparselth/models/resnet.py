"""ResNet for 32 x 32 images, with the 1x1 downsample (option B) that the paper's group uses.

Reference: He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layers import conv, initialize, scaled, sized


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv(in_channels, out_channels, kernel=1, stride=stride),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """Stages of basic blocks, each after the first halving the image: (N, C, H, W) -> (N, classes).

    stages: channels of each stage at width 1.  blocks: in each stage.
    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    With 3 input channels, stages of 16-32-64 channels and 3 blocks (ResNet-20), 269,824 weights are
    prunable: every convolution but the stem.
    """

    def __init__(
        self,
        stages: tuple[int, ...],
        blocks: int,
        num_classes: int,
        in_channels: int,
        width: float,
    ) -> None:
        super().__init__()
        channels = [scaled(c, width) for c in stages]
        self.stem = conv(in_channels, channels[0])
        self.bn = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        built = []
        previous = channels[0]
        for index, out_channels in enumerate(channels):
            stage = []
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(BasicBlock(previous, out_channels, stride))
                previous = out_channels
            built.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*built)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(previous, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of images x (N, C, H, W), of the weights' dtype."""
        x = self.relu(self.bn(self.stem(x)))
        x = self.pool(self.stages(x))
        return self.classifier(self.flatten(x))


_CIFAR = (16, 32, 64)


@sized
def resnet20(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-20: three blocks a stage.

    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    Raises SparselthError for numbers that no network can have.
    """
    return ResNet(_CIFAR, 3, num_classes, in_channels, width)


@sized
def resnet32(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-32: five blocks a stage.

    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    Raises SparselthError for numbers that no network can have.
    """
    return ResNet(_CIFAR, 5, num_classes, in_channels, width)


@sized
def resnet56(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-56: nine blocks a stage.

    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    Raises SparselthError for numbers that no network can have.
    """
    return ResNet(_CIFAR, 9, num_classes, in_channels, width)


@sized
def resnet18(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-18 with the stem for 32 x 32 images: 3 x 3, stride 1, no pooling.

    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    Raises SparselthError for numbers that no network can have.
    """
    return ResNet((64, 128, 256, 512), 2, num_classes, in_channels, width)
