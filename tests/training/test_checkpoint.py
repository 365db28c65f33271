"""Checkpoints: exact, atomic, and honest about damage."""

import json
import os
import shutil

import pytest
import torch

from sparselth.training import CheckpointError, CheckpointFolder

STATE = {
    "model": {"w": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)},
    "masks": {"w": torch.tensor([True, False])},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2), "step": None}}, "groups": [{}]},
    "history": [{"loss": 0.1, "name": "é"}, {"loss": float("inf")}],
    "empty": [],
}


def _same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@pytest.fixture
def folder(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    for epoch in (1, 2, 3):
        folder.save(epoch, {**STATE, "epoch": epoch})
    return folder


def test_what_is_saved_comes_back(folder):
    epoch, state = folder.load()
    assert epoch == 3
    assert _same(state, {**STATE, "epoch": 3})


def test_nothing_saved_is_none(tmp_path):
    assert CheckpointFolder(tmp_path / "none").load() is None


def test_the_last_two_are_kept(folder):
    assert folder.epochs() == [3, 2]
    assert len(list(folder.path.iterdir())) == 4


def test_tensors_that_share_memory_are_saved(tmp_path):
    shared = torch.ones(3)
    folder = CheckpointFolder(tmp_path)
    folder.save(1, {"a": shared, "b": shared, "c": torch.ones(2, 3).t()})
    assert _same(folder.load()[1], {"a": shared, "b": shared, "c": torch.ones(3, 2)})


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


def _other_json(path):
    path.write_text('["not", "ours"]')


def _change_a_number(path):
    document = json.loads(path.read_text())
    document["state"] = {"dict": [["epoch", {"value": 4}]]}
    path.write_text(json.dumps(document))


DAMAGE = [
    ("safetensors", _truncate),
    ("safetensors", _flip_a_bit),
    ("safetensors", _empty),
    ("safetensors", os.unlink),
    ("json", _truncate),
    ("json", _empty),
    ("json", _other_json),
    ("json", _change_a_number),
]


@pytest.mark.parametrize(("kind", "harm"), DAMAGE)
def test_damage_is_noticed_and_the_one_before_used(folder, kind, harm):
    harm(folder.path / f"epoch-0003.{kind}")
    with pytest.warns(UserWarning, match=r"epoch-0003.*going on from the one before, epoch 2"):
        epoch, state = folder.load()
    assert epoch == 2
    assert _same(state, {**STATE, "epoch": 2})


@pytest.mark.parametrize(("kind", "harm"), DAMAGE)
def test_damage_to_all_is_an_error_that_says_what_to_do(folder, kind, harm):
    for epoch in (2, 3):
        harm(folder.path / f"epoch-000{epoch}.{kind}")
    with pytest.raises(CheckpointError, match=r"no intact one is left; delete the folder"):
        folder.load()


def test_a_kill_between_the_two_files_leaves_the_one_before(folder):
    shutil.copy(folder.path / "epoch-0003.safetensors", folder.path / "epoch-0004.safetensors")
    (folder.path / ".epoch-0004.json.xyz.tmp").write_text("{")
    assert folder.load()[0] == 3
    folder.save(4, STATE)
    assert folder.load()[0] == 4
    assert not list(folder.path.glob(".*.tmp"))


def test_a_failed_write_changes_nothing(folder, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        folder.save(4, STATE)
    monkeypatch.undo()
    assert folder.load()[0] == 3
    assert len(list(folder.path.iterdir())) == 4


def test_a_newer_format_is_refused(folder, monkeypatch):
    monkeypatch.setattr("sparselth.training.checkpoint.FORMAT", 2)
    with pytest.raises(CheckpointError, match="format 1"):
        folder.load()


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"at 'a\.b'"):
        CheckpointFolder(tmp_path).save(1, {"a": {"b": object()}})
