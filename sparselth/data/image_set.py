"""The form every data set takes: uint8 images and int64 labels, for training and for testing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import check_whole
from ..errors import SparselthError


@dataclass(frozen=True)
class ImageSet:
    """A labeled set of images, whole in memory.

    name: for messages and tables.
    train_images, test_images: uint8 (N, C, H, W), contiguous.
    train_labels, test_labels: int64 (N,), in [0, num_classes).
    `mean` and `std` are those
    of the training pixels, a value per channel, on the scale where white is 1. `flip` says whether
    a mirrored image keeps its label: true for photographs, false for digits.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool

    @property
    def channels(self) -> int:
        """Channels of each image: 1 for gray, 3 for color."""
        return self.train_images.shape[1]

    def limited(self, train: int = 0, test: int = 0) -> ImageSet:
        """Keep the first `train` and `test` images, 0 for all; mean and std stay as they are.

        Raises SparselthError for numbers of images that the set does not have.
        """
        train = check_whole("a train limit", train, 0)
        test = check_whole("a test limit", test, 0)
        limits = {"train": (train, len(self.train_labels)), "test": (test, len(self.test_labels))}
        for part, (limit, available) in limits.items():
            if limit > available:
                raise SparselthError(
                    f"a {part} limit of {limit} does not fit {self.name}, which has {available} "
                    f"{part} images; choose 1 to {available}, or 0 for all"
                )
        return dataclasses.replace(
            self,
            train_images=self.train_images[: train or None],
            train_labels=self.train_labels[: train or None],
            test_images=self.test_images[: test or None],
            test_labels=self.test_labels[: test or None],
        )


def from_arrays(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    flip: bool,
) -> ImageSet:
    """Build an `ImageSet` from (images, labels) arrays; images (N, C, H, W) uint8.

    Raises `SparselthError` when images and labels do not belong together.
    """
    for part, (images, labels) in {"training": train, "test": test}.items():
        if len(images) != len(labels) or len(images) == 0:
            raise SparselthError(
                f"{name}: the {part} files hold {len(images)} images and {len(labels)} labels, "
                "which should be the same number above 0; fetch the files again"
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise SparselthError(
                f"{name}: the {part} labels run from {labels.min()} to {labels.max()}, expected "
                f"0 to {num_classes - 1}; fetch the files again"
            )
    mean, std = _statistics(train[0])
    return ImageSet(
        name=name,
        train_images=_tensor(train[0]),
        train_labels=torch.from_numpy(train[1].astype(np.int64)),
        test_images=_tensor(test[0]),
        test_labels=torch.from_numpy(test[1].astype(np.int64)),
        num_classes=num_classes,
        mean=mean,
        std=std,
        flip=flip,
    )


def _tensor(images: np.ndarray) -> Tensor:
    """Convert to a tensor with the strides torch itself would choose, copied where need be.

    numpy may give an axis of length 1 any stride, and calls the array contiguous. With one input
    channel, torch 2.15's convolution then corrupts memory (seen on an AMD EPYC, November 2026).
    """
    usual = torch.empty(images.shape, device="meta").stride()
    if images.flags.writeable and tuple(images.strides) == usual:  # a byte per pixel
        return torch.from_numpy(images)
    tensor = torch.empty(images.shape, dtype=torch.uint8, device="cpu")
    tensor.numpy()[...] = images
    return tensor


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and std per channel from histograms: exact, and without a float copy."""
    levels = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 4096):  # bincount makes 8 bytes of every pixel
            part = images[start : start + 4096, channel]
            counts += np.bincount(part.ravel(), minlength=256)
        mean = float(counts @ levels / counts.sum())
        variance = float(counts @ (levels - mean) ** 2 / counts.sum())
        means.append(mean)
        # A constant channel carries nothing; dividing by 1 keeps it finite.
        stds.append(variance**0.5 or 1.0)
    return tuple(means), tuple(stds)
