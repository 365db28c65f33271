"""Conv-4: the small network of the lottery ticket papers, without batch norm.

Reference: Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, figure 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layers import scaled, sized


class Conv4(nn.Module):
    """Four convolutions and three linear layers: (N, C, 32, 32) -> (N, classes).

    With 3 input channels 2,420,736 weights are prunable: all but those of the first convolution and
    the classifier. Glorot initialization, biases zero.
    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    """

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        first, second, hidden = (scaled(n, width) for n in (64, 128, 256))
        layers: list[nn.Module] = []
        previous = in_channels
        for channels in (first, second):
            for inputs in (previous, channels):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
            previous = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(8)  # images of another size reach the same linear layers
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * second, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(hidden, num_classes)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_normal_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of images x (N, C, H, W), of the weights' dtype."""
        return self.classifier(self.hidden(self.pool(self.features(x))))


@sized
def conv4(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> Conv4:
    """Build Conv-4.

    num_classes: logits.  in_channels: of the images.  width: multiplies all channels.
    Raises SparselthError for numbers that no network can have.
    """
    return Conv4(num_classes, in_channels, width)
