"""Folders of image files that need not fit in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checks import check_whole
from ..errors import SparselthError
from ..files import as_path
from .decode import require_torchvision, usable_cores

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Samples = list[tuple[str, int]]


class ImageFolder:
    """A labeled set of image files, decoded anew in every epoch by worker processes.

    `root` holds `train/<class>/...` and `val/<class>/...`, as ImageNet is usually unpacked; classes
    are numbered in the order of their sorted folder names. Served images are RGB, `image_size` wide
    and high: random parts of any aspect when augmented (and mirrored where `flip` allows it), else
    the center of the image scaled to `resize` along its shorter side. `mean` and `std` are per
    channel, on the scale where white is 1; ImageNet's by default. `workers` is the number of
    processes that decode, 0 for none beside the training, by default one per core and at most 8; it
    decides no number.

    Raises `SparselthError` when a folder is missing or empty, both do not hold the same classes, or
    torchvision is not installed. A damaged image is noticed, and named, when it is served.
    """

    channels = 3

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: int = 224,
        resize: int = 256,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        flip: bool = True,
        workers: int | None = None,
    ) -> None:
        image_size = check_whole("image_size of an image folder", image_size, 1)
        resize = check_whole("resize of an image folder", resize, 1)
        if image_size > resize:
            raise SparselthError(
                f"an image folder got image_size={image_size} and resize={resize}; the center that "
                "is cut out must fit, so 1 <= image_size <= resize"
            )
        workers = min(usable_cores(), 8) if workers is None else workers
        workers = check_whole("workers of an image folder", workers, 0)
        if not all(_is_triple(values) for values in (mean, std)) or min(std) <= 0:
            raise SparselthError(
                f"an image folder got mean={mean} and std={std}; both need three values, and std "
                "values above 0"
            )
        self.root = as_path(root, "the image folder").expanduser()
        self.name = self.root.name
        self.image_size = image_size
        self.resize = resize
        self.mean = mean
        self.std = std
        self.flip = flip
        self.workers = workers
        self.classes, self.train_samples = _listed(self.root / "train")
        test_classes, self.test_samples = _listed(self.root / "val")
        different = sorted(set(self.classes) ^ set(test_classes))
        if different:
            raise SparselthError(
                f"the class {different[0]!r} is in only one of the folders train and val of "
                f"{self.root}; both must hold the same classes"
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are: folders below `train`."""
        return len(self.classes)


def _is_triple(values: Any) -> bool:
    numbers = isinstance(values, (tuple, list)) and len(values) == 3
    return numbers and all(isinstance(value, (int, float)) for value in values)


def _listed(folder: Path) -> tuple[list[str], Samples]:
    """List the classes below a folder and the image files of each, sorted."""
    require_torchvision()
    from torchvision import datasets

    if not folder.is_dir():
        raise SparselthError(
            f"the image folder {folder} does not exist; expected <root>/train/<class>/... and "
            "<root>/val/<class>/..."
        )
    try:
        images = datasets.ImageFolder(folder)
    except FileNotFoundError as error:  # no class, or one without images
        raise SparselthError(f"the image folder {folder} cannot be used: {error}") from error
    return images.classes, images.samples
