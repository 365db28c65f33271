"""What the training engine needs of any data set: one small protocol, built by one function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from .batches import Batches
from .image_folder import ImageFolder
from .image_set import ImageSet
from .stream import StreamedBatches


class BatchSource(Protocol):
    """Normalised batches on one device: `(x, labels)`, x float32 (N, C, H, W), labels int64 (N,).

    An epoch of training has `steps` batches of `train_count` images in all, which follow from the
    seed and the epoch alone; testing has `test_count`. Among several processes each gets its share
    of every batch; `images_in` counts those of all.
    """

    device: torch.device
    train_count: int
    test_count: int

    @property
    def steps(self) -> int: ...

    def images_in(self, step: int) -> int: ...

    def train(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...

    def test(self) -> Iterator[tuple[Tensor, Tensor]]: ...


def batches_of(
    data: ImageSet | ImageFolder,
    batch_size: int,
    seed: int,
    augment: bool,
    device: torch.device,
    shard: tuple[int, int] = (0, 1),
) -> BatchSource:
    """Serve a data set: one in memory from the device, a folder by worker processes.

    shard: (rank, size) of a process among several, which gets its share of each batch.
    """
    if isinstance(data, ImageFolder):
        return StreamedBatches(data, batch_size, seed, augment, device, shard)
    return Batches(data, batch_size, seed, augment, device, shard)
