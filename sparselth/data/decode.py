"""Decode image files with torchvision and Pillow, in worker processes where there are many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import SparselthError

# Starting a worker takes longer than decoding this many small images.
_IMAGES_PER_WORKER = 2000


def require_torchvision() -> None:
    """Raise `SparselthError` with the command that helps when torchvision is not installed."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError as error:
        raise SparselthError(
            f"image files are decoded with torchvision, which cannot be imported here ({error}); "
            "run: pip install 'sparselth[images]'"
        ) from error


def usable_cores() -> int:
    """Count the CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def read_rgb(path: str | Path) -> Any:
    """Read an image file into a Pillow image of mode RGB; gray ones get three equal channels.

    Raises `SparselthError` that names the file when it is missing, truncated or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:
        # A damaged image raises nearly anything, from OSError to SyntaxError and struct.error.
        reason = " ".join(str(error).split())
        raise SparselthError(
            f"the image {path} cannot be decoded ({reason}): the file is damaged or no image; "
            "fetch it again"
        ) from error


def collate(samples: list[Any]) -> Any:
    """Stack (image, label) samples into tensors (N, C, H, W) and (N,), or hand on an error.

    A worker's exception would reach the user as a traceback of many lines; traveling as a value,
    it keeps its one sentence. `checked` raises it.
    """
    for sample in samples:
        if isinstance(sample, SparselthError):
            return sample
    labels = torch.tensor([label for _, label in samples], device="cpu")
    return torch.stack([image for image, _ in samples]), labels


def checked(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a loader's batches; raise the error that came in place of one."""
    for batch in loader:
        if isinstance(batch, SparselthError):
            # A new one: an exception kept in a variable of the frame that raises it is a cycle,
            # which keeps the workers until the garbage collector stops them, 5 seconds for each.
            raise SparselthError(str(batch))
        images, labels = batch
        yield images, labels


class _Files(Dataset):
    """Image files of one size, each decoded to uint8 (3, size, size), and its place in the list."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        from torchvision.transforms.v2 import functional

        path = self.paths[index]
        try:
            image = read_rgb(path)
        except SparselthError as error:
            return error
        if image.size != (self.size, self.size):
            return SparselthError(
                f"the image {path} has {image.width} x {image.height} pixels, expected "
                f"{self.size} x {self.size}; fetch it again"
            )
        return functional.pil_to_tensor(image), index


def decode_all(paths: Sequence[Path], size: int, workers: int | None = None) -> np.ndarray:
    """Decode files into one uint8 array (N, 3, size, size), in their order.

    `workers` is the number of processes, 0 for none beside this one; by default every core takes
    part when there is enough to do.

    Raises `SparselthError` that names the file for one that is missing, damaged or of another size.
    """
    require_torchvision()
    if workers is None:
        workers = min(usable_cores(), len(paths) // _IMAGES_PER_WORKER)
    images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
    # A generator of its own, so that decoding draws nothing from torch's global random state.
    loader = DataLoader(
        _Files(paths, size),
        batch_size=256,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),
    )
    for batch, places in checked(loader):
        images[places.numpy()] = batch.numpy()
    return images
