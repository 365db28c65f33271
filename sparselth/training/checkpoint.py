"""Checkpoints that survive a kill at any moment, notice damage, and are never unpickled.

A checkpoint is two files: the tensors in safetensors form, and a JSON file with everything else
and the checksums of both. The JSON file is written last and by a rename, so it is there only when
the checkpoint is whole. The last two are kept: should the newest be damaged later, by a full disk
or a bad copy, the one before it takes its place.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from ..checks import check_whole
from ..errors import SparselthError
from ..files import as_path, write_atomically

FORMAT = 1
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.json")

# Epochs that are complete, and steps of the next.
Position = tuple[int, int]


class CheckpointError(SparselthError):
    """A checkpoint is truncated, altered, or belongs to another run."""


class CheckpointFolder:
    """The checkpoints of one training run: after epochs, and after steps within them.

    path: of the folder, made when the first is saved.  keep: how many of the newest stay, >= 1.

    Raises SparselthError for a path or a number that is none.
    """

    def __init__(self, path: str | Path, keep: int = 2) -> None:
        self.path = as_path(path, "a checkpoint")
        self.keep = check_whole("the number of checkpoints to keep", keep, 1)

    def positions(self) -> list[Position]:
        """List where a checkpoint was completed, newest first."""
        if not self.path.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.path.iterdir())
        positions = ((int(match[1]), int(match[2] or 0)) for match in matches if match)
        return sorted(positions, reverse=True)

    def epochs(self) -> list[int]:
        """List how many epochs were complete at each checkpoint, newest first."""
        return [epoch for epoch, _ in self.positions()]

    def save(self, epoch: int, state: Any, step: int = 0) -> None:
        """Write `state`, made of dicts, lists, tensors, numbers, texts and None, atomically.

        epoch: how many are complete.  step: how many of the next one's are. Tensors are copied to
        the CPU, and keep their dtypes; tuples come back as lists.

        Raises TypeError for a state made of anything else.
        """
        tensors: dict[str, Tensor] = {}
        skeleton = _pack(state, "", tensors)
        payload = tensors_to_bytes(tensors)
        body = {"format": FORMAT, "tensors": _sha256(payload), "state": skeleton}
        document = {"sha256": _sha256(_canonical(body)), **body}
        write_atomically(self._file((epoch, step), "safetensors"), payload)
        write_atomically(self._file((epoch, step), "json"), json.dumps(document))
        self._prune()

    def load(self) -> tuple[int, Any] | None:
        """Return (epochs, state) of the newest intact checkpoint, or None when there is none yet.

        Warns when a damaged one had to be passed over; raises `CheckpointError` when no intact
        one is left.
        """
        damage = []
        for position in self.positions():
            try:
                state = self._read(position)
            except CheckpointError as error:
                damage.append(str(error))
                continue
            if damage:
                warnings.warn(
                    f"{damage[0]}; going on from the one before, {_place(position)}", stacklevel=2
                )
            return position[0], state
        if damage:
            raise CheckpointError(
                f"{damage[0]}, and no intact one is left; delete the folder {self.path} to train "
                "this part again, or put back a copy"
            )
        return None

    def _read(self, position: Position) -> Any:
        file = self._file(position, "json")
        tensor_file = self._file(position, "safetensors")
        try:
            document = json.loads(file.read_bytes())
            recorded = document.pop("sha256")
            intact = recorded == _sha256(_canonical(document))
        except (ValueError, KeyError, AttributeError, TypeError):
            intact = False
        if not intact:
            raise CheckpointError(f"the checkpoint {file} is truncated or altered")
        if document["format"] != FORMAT:
            raise CheckpointError(
                f"the checkpoint {file} has format {document['format']}, this version of sparselth "
                f"reads format {FORMAT}"
            )
        payload = tensor_file.read_bytes() if tensor_file.is_file() else b""
        if _sha256(payload) != document["tensors"]:
            raise CheckpointError(f"the checkpoint {tensor_file} is missing, truncated or altered")
        return _unpack(document["state"], tensors_from_bytes(payload))

    def _file(self, position: Position, suffix: str) -> Path:
        return self.path / f"{_stem(position)}.{suffix}"

    def _prune(self) -> None:
        """Delete all but the newest checkpoints, and what a kill left half done."""
        kept = {_stem(position) for position in self.positions()[: self.keep]}
        entries = [*self.path.glob("epoch-*"), *self.path.glob(".epoch-*.tmp")]
        for entry in sorted(entries):  # .json sorts before .safetensors: never a JSON alone
            if entry.stem not in kept:
                entry.unlink()


def _stem(position: Position) -> str:
    epoch, step = position
    return f"epoch-{epoch:04d}" + (f"-step-{step:06d}" if step else "")


def _place(position: Position) -> str:
    epoch, step = position
    return f"epoch {epoch}" + (f" and {step} steps" if step else "")


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Take the tensors out of a nested value and describe the rest in JSON.

    Dictionaries become lists of pairs, because JSON would turn an optimizer's whole-number keys
    into texts.
    """
    if isinstance(value, Tensor):
        # A copy, because safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    below = f"{name}." if name else ""
    if isinstance(value, dict):
        return {"dict": [[k, _pack(v, f"{below}{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_pack(v, f"{below}{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} (at '{name}')")


def _unpack(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in content}
    if kind == "list":
        return [_unpack(value, tensors) for value in content]
    return content


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Tell whether two dictionaries hold the same names and exactly the same values."""
    return first.keys() == second.keys() and all(
        torch.equal(tensor.cpu(), second[name].cpu()) for name, tensor in first.items()
    )
