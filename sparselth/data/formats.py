"""Read the files that image sets are published in: idx, CIFAR binary, and CIFAR's Python pickles.

None of these readers executes anything from a file.
"""

from __future__ import annotations

import codecs
import gzip
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import SparselthError

_FETCH_AGAIN = "the file is damaged or not what its name says; fetch it again"


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, gzipped if the name ends in .gz, into a uint8 array."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise SparselthError(f"{path} cannot be read ({error}): {_FETCH_AGAIN}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise SparselthError(f"{path} does not start as an idx file of bytes: {_FETCH_AGAIN}")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:header], dtype=">u4").astype(int).tolist()
    expected = header + int(np.prod(shape))
    if len(shape) != dimensions or len(content) != expected:
        raise SparselthError(
            f"{path} has {len(content)} bytes, its header promises {expected}: {_FETCH_AGAIN}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def read_cifar_binary(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a CIFAR .bin file: per image its label bytes, the last of which counts, and 3072 pixels.

    Returns images uint8 (N, 3, 32, 32) and labels uint8 (N,).
    """
    record = label_bytes + 3072
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if content.size == 0 or content.size % record:
        raise SparselthError(
            f"{path} has {content.size} bytes, expected a multiple of {record}: {_FETCH_AGAIN}"
        )
    rows = content.reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1]


def read_cifar_pickle(path: Path, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read a CIFAR python batch without running it; see `_PlainUnpickler`.

    Returns images uint8 (N, 3, 32, 32) and labels int64 (N,).
    """
    with path.open("rb") as file:
        try:
            batch = _PlainUnpickler(file, encoding="bytes").load()
        except Exception as error:
            # A damaged stream raises nearly anything, from EOFError to UnicodeDecodeError.
            raise SparselthError(f"{path} cannot be read ({error}): {_FETCH_AGAIN}") from error
    pixels = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(label_key) if isinstance(batch, dict) else None
    if not isinstance(pixels, _Array) or not isinstance(labels, list):
        raise SparselthError(
            f"{path} does not hold 'data' and '{label_key.decode()}': {_FETCH_AGAIN}"
        )
    images = pixels.value()
    if images.ndim != 2 or images.shape != (len(labels), 3072):
        raise SparselthError(
            f"{path} holds pixels of shape {images.shape} for {len(labels)} labels, expected "
            f"({len(labels)}, 3072): {_FETCH_AGAIN}"
        )
    return images.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


class _Dtype:
    """Stands in for numpy.dtype: remembers the name, accepts nothing but unsigned bytes."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in (b"u1", "u1"):
            raise SparselthError(f"pixels of type {name!r}, expected unsigned bytes (u1)")

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment, which single bytes do not have."""


class _Array:
    """Stands in for numpy.ndarray: remembers shape and bytes, runs nothing."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def value(self) -> np.ndarray:
        _, shape, _, fortran, content = self.state
        pixels = np.frombuffer(content, dtype=np.uint8)
        return pixels.reshape(shape[::-1]).T if fortran else pixels.reshape(shape)


def _encode(text: Any, encoding: Any) -> bytes:
    """Stand in for _codecs.encode, with which Python 3 writes bytes into a version 2 pickle."""
    if isinstance(text, bytes):
        text = text.decode("latin1")
    if encoding not in ("latin1", b"latin1"):
        raise SparselthError(f"text encoding {encoding!r}, expected latin1")
    return codecs.encode(text, "latin1")


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that can build numbers, texts, lists, dicts and byte arrays, and no more.

    A pickle calls whatever it names. The published CIFAR files name only numpy's array constructor,
    so those names, and no others, lead to the inert stand-ins above.
    """

    _stand_ins: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._stand_ins:
            raise SparselthError(f"it asks for {module}.{name}, which no CIFAR file does")
        return self._stand_ins[module, name]
