"""Serve an image set as normalized batches from device memory, augmented by tensor operations.

Every draw follows from (seed, epoch) alone, so that a resumed run needs no random state, and
happens on the CPU, so that every device sees the same crops in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..seeds import generator
from .dealt import Dealt
from .given import IGNORED, check_labels
from .image_set import ImageSet

CROP_PADDING = 4


class Batches(Dealt):
    """The batches of one image set on one device.

    data: the set, which is copied to `device` whole.
    batch_size: images, on all processes together.  seed, augment: as in `Recipe`.
    shard: (rank, size) of a process among several.
    Yields `(x, labels)`: x float32 (N, C, H, W), normalized to mean 0 and std 1 of the training
    pixels; labels int64 (N,).
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
        super().__init__(len(data.train_labels), batch_size, shard)
        self.seed = seed
        self.augment = augment
        self.flip = data.flip
        self.device = device
        self.train_images = data.train_images.to(device)
        self.train_labels = data.train_labels.to(device)
        self.test_images = data.test_images.to(device)
        self.test_labels = data.test_labels.to(device)
        self.test_count = len(data.test_labels)
        self.mean = torch.tensor(data.mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(data.std, device=device).view(-1, 1, 1)

    def train(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every training image once, in the order and with the crops of this epoch.

        epoch: counted from 0; with the seed it decides all draws.  first_step: where to begin, in
        batches.
        """
        rng = generator(self.seed, "batches", epoch)
        count = self.train_count
        order = torch.randperm(count, generator=rng, device="cpu")
        shifts = torch.randint(0, 2 * CROP_PADDING + 1, (2, count), generator=rng, device="cpu")
        mirrored = torch.rand(count, generator=rng, device="cpu") < 0.5
        order, shifts, mirrored = (t.to(self.device) for t in (order, shifts, mirrored))
        for step in range(first_step, self.steps):
            part = self.part(step)
            images = self.train_images[order[part]]
            if self.augment:
                flips = mirrored[part] if self.flip else None
                images = crop(images, shifts[0, part], shifts[1, part], flips)
            yield normalize(images, self.mean, self.std), self.train_labels[order[part]]

    def check_labels(self, classes: int) -> None:
        """Refuse labels that a model of `classes` logits does not have.

        Raises SparselthError, naming the part.
        """
        check_labels(self.train_labels, classes, "the training images", IGNORED)
        check_labels(self.test_labels, classes, "the test images")

    def test(self, batch_size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every test image once, in order, as it is; each process its share.

        batch_size: images, on all processes together.
        """
        for step in range(-(-self.test_count // batch_size)):
            part = self.part(step, batch_size)
            labels = self.test_labels[part]
            if len(labels):  # the last batch may have none for this process
                yield normalize(self.test_images[part], self.mean, self.std), labels


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Convert uint8 images (N, C, H, W) to float32, less `mean` and over `std`, both (C, 1, 1).

    Equal to torchvision's `to_dtype(scale=True)` and `normalize`, bit for bit: it takes the same
    steps, each in place.
    """
    return images.to(torch.float32, copy=True).mul_(1 / 255).sub_(mean).div_(std)


def crop(
    images: Tensor,
    down: Tensor,
    right: Tensor,
    mirrored: Tensor | None = None,
    padding: int = CROP_PADDING,
    fill: int = 0,
) -> Tensor:
    """Pad and cut each image out at its own place, as torchvision's RandomCrop does; then mirror.

    `images` (N, C, H, W); `down` and `right` (N,) int64 in [0, 2 * padding]: each cut's corner;
    `mirrored` (N,) bool: which of the cuts are flipped, none by default. `fill` is the value of the
    padding, black by default.
    """
    count, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4, value=fill)
    rows = down[:, None] + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    if mirrored is not None:
        across = torch.where(mirrored[:, None], across.flip(0), across)
    columns = right[:, None] + across
    # One gather for both, its places shared by all channels: 1.2 to 1.9 times as fast as indexing
    # into unfolded windows and choosing between two copies (AMD EPYC, 2 threads, November 2026).
    places = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    places = places.view(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, places).view(images.shape)
