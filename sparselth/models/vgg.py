"""VGG with batch norm for 32 x 32 images, one linear layer on top.

Reference: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2015, configurations A and D; without their three large linear layers, as is usual for
32 x 32.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layers import conv, initialize, scaled, sized

# Channels of each convolution; 0 halves the image.
_VGG11 = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512)
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


class VGG(nn.Module):
    """Convolutions in a row: (N, C, 32, 32), or larger, -> (N, classes).

    layout: channels of each convolution, 0 for a pooling that halves the image.
    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    VGG-11 with 3 input channels has 9,216,000 prunable weights: every convolution but the first.
    """

    def __init__(
        self, layout: tuple[int, ...], num_classes: int, in_channels: int, width: float
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = in_channels
        for channels in layout:
            if channels == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            out_channels = scaled(channels, width)
            layers += [conv(previous, out_channels), nn.BatchNorm2d(out_channels)]
            layers.append(nn.ReLU(inplace=True))
            previous = out_channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)  # images may be larger
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(previous, num_classes)
        initialize(self)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of images x (N, C, H, W), of the weights' dtype."""
        return self.classifier(self.flatten(self.pool(self.features(x))))


@sized
def vgg11(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> VGG:
    """Build VGG-11: eight convolutions and one linear layer.

    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    Raises SparselthError for numbers that no network can have.
    """
    return VGG(_VGG11, num_classes, in_channels, width)


@sized
def vgg16(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> VGG:
    """Build VGG-16: thirteen convolutions and one linear layer.

    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    Raises SparselthError for numbers that no network can have.
    """
    return VGG(_VGG16, num_classes, in_channels, width)
