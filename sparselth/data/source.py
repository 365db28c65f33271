"""What the training engine needs of any data set: one small protocol, built by one function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ..checks import check_device, check_whole
from ..errors import SparselthError
from .batches import Batches
from .given import GivenBatches, Pair, TensorBatches, check_given, is_pair
from .image_folder import ImageFolder
from .image_set import ImageSet
from .stream import StreamedBatches

Data = ImageSet | ImageFolder | Pair | Iterable[Any]
"""What can be trained on: also a pair of tensors (x, y), or an iterable of such batches."""


class BatchSource(Protocol):
    """Batches on one device: `(x, labels)`, x of floats (N, ...), labels int64 (N,).

    Those of image sets are float32 (N, C, H, W), normalized. An epoch of training has `steps`
    batches of `train_count` images in all, which follow from the seed and the epoch alone; 0 where
    nobody knows before. Among several processes each gets its share of every batch; `images_in`
    counts those of all, for the batch yielded last. `resumes_within` says whether an epoch can be
    begun at a later step. `check_labels` refuses what a model of so many logits cannot be right
    about, as far as labels are known, and those of an iterable as they come.
    """

    device: torch.device
    train_count: int
    resumes_within: bool

    @property
    def steps(self) -> int:
        """Batches of an epoch; 0 where nobody knows before."""

    def images_in(self, step: int) -> int:
        """Return how many images the batch yielded last, number `step`, has on all processes."""

    def check_labels(self, classes: int) -> None:
        """Raise SparselthError for labels, known so far, that `classes` logits have not."""

    def train(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of `epoch`, counted from 0, from the one number `first_step` on."""

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test batches in order, as they are; none where there is no test data."""

    def close(self) -> None:
        """Stop what works ahead; batches that are asked for afterwards start it again."""


def batches_of(
    data: Data,
    batch_size: int,
    seed: int,
    augment: bool,
    device: torch.device,
    shard: tuple[int, int] = (0, 1),
    test: Any = None,
) -> BatchSource:
    """Serve data: image sets in memory from the device, a folder by worker processes.

    data: see `Data`.  batch_size: images of a batch, on all processes together.
    seed: decides the order of the images and their crops, as in `Recipe`.  augment: likewise, of
    image sets and folders; tensors and iterables are served as they are.
    device: where batches are.
    shard: (rank, size) of a process among several, which gets its share of each batch.
    test: what to evaluate on, a pair of tensors or an iterable of batches, where the data has no
    test images of its own.

    Raises SparselthError for data of another kind, saying what is expected, or a batch size or
    device that is none.
    """
    batch_size, device = check_whole("batch_size", batch_size, 1), check_device(device)
    if isinstance(data, (ImageSet, ImageFolder)):
        if test is not None:
            raise SparselthError(f"{data.name} has test images of its own; leave test out")
        kind = StreamedBatches if isinstance(data, ImageFolder) else Batches
        return kind(data, batch_size, seed, augment, device, shard)  # type: ignore[arg-type]
    check_given(data)
    if test is not None:
        check_given(test, "test")
    if is_pair(data):
        return TensorBatches(data, test, batch_size, seed, device, shard)  # type: ignore[arg-type]
    if shard[1] > 1:
        raise SparselthError(
            "in a process group an iterable of batches cannot be dealt to the processes; pass "
            "tensors (x, y), an ImageSet or an ImageFolder"
        )
    return GivenBatches(data, test, seed, device)
