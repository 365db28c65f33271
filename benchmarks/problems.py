"""The layers and models that every benchmark uses."""

from __future__ import annotations

from dataclasses import dataclass

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class Layer:
    """A convolution as it is met in training. channels: in and out; size: height and width."""

    batch: int
    channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1

    def __str__(self) -> str:
        extra = f"-k{self.kernel}" * (self.kernel != 3) + f"-s{self.stride}" * (self.stride != 1)
        extra += "-depthwise" * (self.groups == self.channels)
        return f"N{self.batch}-C{self.channels}-H{self.size}{extra}"


LAYERS = (
    Layer(64, 64, 32),
    Layer(64, 128, 16),
    Layer(64, 256, 8),
    Layer(64, 512, 4),
    Layer(128, 16, 32),
    Layer(128, 32, 16),
    Layer(128, 64, 8),
    Layer(64, 128, 16, stride=2),
    Layer(64, 128, 16, kernel=1),
    Layer(64, 128, 16, groups=128),
)
