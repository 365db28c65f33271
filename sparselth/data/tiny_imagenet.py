"""Read Tiny ImageNet from the folders that its zip file unpacks to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import SparselthError
from .decode import decode_all

CLASSES, SIZE = 200, 64
FOLDER = "tiny-imagenet-200"
_UNPACK_AGAIN = f"unpack {FOLDER}.zip again"

Listing = tuple[list[Path], list[int]]
Arrays = tuple[np.ndarray, np.ndarray]


def read_tiny_imagenet(
    folder: Path, decode: Callable[[list[Path], int], np.ndarray] = decode_all
) -> tuple[Arrays, Arrays]:
    """Read (images, labels) to train and to test; images uint8 (N, 3, 64, 64), labels int64 (N,).

    The published validation images serve for testing, as is usual: the labels of `test/` were never
    published. Classes are numbered in the order of their sorted WordNet names, as torchvision's
    ImageFolder would.

    Raises `SparselthError` that names the file or folder which is missing, damaged or incomplete.
    """
    classes = _classes(folder / "wnids.txt")
    # Both lists first: what is missing is said before minutes of decoding.
    listings = _training(folder / "train", classes), _validation(folder / "val", classes)
    train, test = (
        (decode(paths, SIZE), np.array(labels, dtype=np.int64)) for paths, labels in listings
    )
    return train, test


def _classes(path: Path) -> dict[str, int]:
    names = sorted(set(_read_text(path).split()))
    if len(names) != CLASSES:
        raise SparselthError(
            f"{path} names {len(names)} classes, expected {CLASSES}; {_UNPACK_AGAIN}"
        )
    return {name: number for number, name in enumerate(names)}


def _training(folder: Path, classes: dict[str, int]) -> Listing:
    """List the training images: the first of every class, then the second, and so on.

    So any first part of them is a fair sample. Every class must have the same number, 500 as
    published: one with fewer is how an unpacking that was interrupted shows.
    """
    columns: list[list[Path]] = []
    for name in classes:
        images = folder / name / "images"
        files = sorted(images.glob("*.JPEG"))
        expected = len(columns[0]) if columns else len(files)
        if not files or len(files) != expected:
            raise SparselthError(
                f"{images} holds {len(files)} .JPEG files, expected {expected or 'at least 1'}, as "
                f"many as every other class; {_UNPACK_AGAIN}"
            )
        columns.append(files)
    rows = list(zip(*columns, strict=True))
    return [path for row in rows for path in row], list(classes.values()) * len(rows)


def _validation(folder: Path, classes: dict[str, int]) -> Listing:
    """List the validation images with the classes that `val_annotations.txt` gives them."""
    annotations = folder / "val_annotations.txt"
    paths: list[Path] = []
    labels: list[int] = []
    for number, line in enumerate(_read_text(annotations).splitlines(), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in classes:
            raise SparselthError(
                f"{annotations}, line {number}, gives {name!r} the class {wnid!r}, which "
                f"wnids.txt does not name; {_UNPACK_AGAIN}"
            )
        paths.append(folder / "images" / name)
        labels.append(classes[wnid])
    present = set((folder / "images").glob("*.JPEG"))
    missing = next((path for path in paths if path not in present), None)
    if missing is not None:
        raise SparselthError(f"{missing} is not there, but {annotations} names it; {_UNPACK_AGAIN}")
    if not paths or len(paths) != len(present):
        raise SparselthError(
            f"{annotations} has {len(paths)} lines for {len(present)} images; {_UNPACK_AGAIN}"
        )
    return paths, labels


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SparselthError(f"{path} cannot be read ({error}); {_UNPACK_AGAIN}") from error
