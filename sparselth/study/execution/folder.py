"""The run folder: config, history, summary, plots and checkpoints of one study."""

from __future__ import annotations

import csv
import fcntl
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import SparselthError
from ...files import write_atomically, write_json
from ...training import CheckpointFolder
from ..plan.config import StudyConfig

_CONFIG, _LOCK = "config.json", ".lock"


class RunFolder:
    """Names and writes the files of a study. Make one with `opened`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def checkpoints(self, name: str) -> CheckpointFolder:
        """Return the checkpoints of one part of the study."""
        return CheckpointFolder(self.path / "checkpoints" / name)

    def write_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write rows with the same keys as CSV."""
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        write_atomically(self.path / name, text.getvalue())

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the folder; None when it is not there."""
        return _read_json(self.path / name)


@contextmanager
def opened(path: str | Path, config: StudyConfig) -> Iterator[RunFolder]:
    """Open the run folder of `config`, made if it is new, for this process alone.

    Raises `SparselthError`, with nothing touched, when the folder holds something else or another
    process works in it.
    """
    folder = Path(path)
    _check(folder, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SparselthError(f"the folder {folder} cannot be made: {error.strerror}") from error
    with (folder / _LOCK).open("w") as lock:
        # The system drops this lock when the process ends, however it ends.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SparselthError(
                f"another study is running in {folder}; wait for it, or name another folder"
            ) from None
        _check(folder, config)
        # Of a process killed while it wrote; cells look after their own.
        for leftover in [*folder.glob(".*.tmp"), *folder.glob("plots/.*.tmp")]:
            leftover.unlink()
        write_json(folder / _CONFIG, config.to_dict())
        yield RunFolder(folder)


def _check(folder: Path, config: StudyConfig) -> None:
    if not folder.exists():
        return
    advice = "name another folder (--out), or give the settings this one was made with"
    if not folder.is_dir():
        raise SparselthError(f"{folder} is a file; name a folder (--out)")
    content = _read_json(folder / _CONFIG)
    if content is None:
        others = [e.name for e in folder.iterdir() if e.name != _LOCK and e.suffix != ".tmp"]
        if others:
            raise SparselthError(
                f"{folder} holds '{sorted(others)[0]}' but no study; name another folder (--out)"
            )
        return
    if not isinstance(content, dict) or "protocols" not in content:
        raise SparselthError(
            f"{folder / _CONFIG} is not the configuration of a study; name another folder (--out)"
        )
    # "fixed" is what there was before one could ask.
    content = {"choice": "fixed", **content}
    differences = config.differences(content)
    if differences:
        raise SparselthError(
            f"{folder} holds another study: {'; '.join(differences[:3])}"
            f"{' ...' if len(differences) > 3 else ''}; {advice}"
        )


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise SparselthError(
            f"{path} is damaged; delete it to have it written again"
            if path.name != _CONFIG
            else f"{path} is damaged, so what this study is cannot be told; name another folder"
        ) from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a cell for this process: one that outlived its study may still be at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # dropped when the process ends, however it ends
        for leftover in folder.glob(".*.tmp"):  # of a process killed while it wrote
            leftover.unlink()
        yield
