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
    seed and the epoch alone; testing has `test_count`.
    """

    device: torch.device
    train_count: int
    test_count: int

    @property
    def steps(self) -> int: ...

    def train(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]: ...

    def test(self) -> Iterator[tuple[Tensor, Tensor]]: ...


def batches_of(
    data: ImageSet | ImageFolder,
    batch_size: int,
    seed: int,
    augment: bool,
    device: torch.device,
) -> BatchSource:
    """Serve a data set: one in memory from the device, a folder by worker processes."""
    if isinstance(data, ImageFolder):
        return StreamedBatches(data, batch_size, seed, augment, device)
    return Batches(data, batch_size, seed, augment, device)
