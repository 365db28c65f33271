"""Serve an image set as normalised batches from device memory, augmented by tensor operations.

Every draw follows from (seed, epoch) alone, so that a resumed run needs no random state, and
happens on the CPU, so that every device sees the same crops in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..seeds import generator
from .image_set import ImageSet

CROP_PADDING = 4


class Batches:
    """The batches of one image set on one device.

    Yields `(x, labels)`: x float32 (N, C, H, W), normalised to mean 0 and std 1 of the training
    pixels; labels int64 (N,).

    shard: (rank, size) of a process among several, which gets every size-th image of each batch;
    a last batch that has not one for each is left out.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        seed: int,
        augment: bool,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.batch_size = batch_size
        self.rank, self.processes = shard
        self.seed = seed
        self.augment = augment
        self.flip = data.flip
        self.device = device
        self.train_images = data.train_images.to(device)
        self.train_labels = data.train_labels.to(device)
        self.test_images = data.test_images.to(device)
        self.test_labels = data.test_labels.to(device)
        self.mean = torch.tensor(data.mean, device=device).view(-1, 1, 1) * 255
        self.scale = 1 / (torch.tensor(data.std, device=device).view(-1, 1, 1) * 255)

    @property
    def steps(self) -> int:
        """The number of training batches in an epoch; the last may be smaller."""
        whole, rest = divmod(len(self.train_labels), self.batch_size)
        return whole + (rest >= self.processes)

    def images_in(self, step: int) -> int:
        """Return how many images a training batch has in all processes."""
        return min(self.batch_size, len(self.train_labels) - step * self.batch_size)

    def train(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every training image once, in the order and with the crops of this epoch.

        first_step: where to begin, in batches.
        """
        rng = generator(self.seed, "batches", epoch)
        count = len(self.train_labels)
        order = torch.randperm(count, generator=rng)
        shifts = torch.randint(0, 2 * CROP_PADDING + 1, (2, count), generator=rng)
        mirrored = torch.rand(count, generator=rng) < 0.5
        order, shifts, mirrored = (t.to(self.device) for t in (order, shifts, mirrored))
        for step in range(first_step, self.steps):
            start = step * self.batch_size
            part = slice(start + self.rank, start + self.batch_size, self.processes)
            images = self.train_images[order[part]]
            if self.augment:
                images = crop(images, shifts[0, part], shifts[1, part])
                if self.flip:
                    images = torch.where(mirrored[part, None, None, None], images.flip(-1), images)
            yield self._normalise(images), self.train_labels[order[part]]

    def test(self, batch_size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every test image once, in order, as it is; each process its share."""
        for start in range(0, len(self.test_labels), batch_size):
            part = slice(start + self.rank, start + batch_size, self.processes)
            yield self._normalise(self.test_images[part]), self.test_labels[part]

    def _normalise(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) * self.scale


def crop(images: Tensor, down: Tensor, right: Tensor, padding: int = CROP_PADDING) -> Tensor:
    """Pad with black and cut each image out at its own place, as torchvision's RandomCrop does.

    `images` (N, C, H, W); `down` and `right` (N,) int64 in [0, 2 * padding]: each cut's corner.
    """
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    rows = torch.arange(len(images), device=images.device)
    return windows[rows, :, down, right]
