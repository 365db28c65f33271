"""Write files so that a reader, or a killed process, never meets half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .errors import SparselthError


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Replace `path` with `content` in one step that survives a kill and a power cut.

    The bytes go to a temporary file in the same folder (a rename is atomic only inside one file
    system), reach the disk, and only then take the name. The folder is synchronized too: without
    it the rename itself can be lost.
    """
    path = Path(os.path.realpath(path))  # of a link, what it points to is replaced
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide results from a group
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_folder(path: str | Path, what: str) -> Path:
    """Make a folder that will be written to, before the work whose results it is for.

    what: how errors call it.

    Raises SparselthError where it cannot be made or written to.
    """
    folder = as_path(path, what)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SparselthError(
            f"{what} {folder} must be a folder, there or to be made, and cannot be: "
            f"{error.strerror}; name another"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SparselthError(f"{what} {folder} cannot be written to; name another folder")
    return folder


def as_path(path: str | Path, what: str) -> Path:
    """Return a path given as a text or a path. Raises SparselthError for anything else."""
    if not isinstance(path, (str, os.PathLike)):
        raise SparselthError(f"{what} must be a path, got {path!r}")
    return Path(path)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
