"""A cell goes on where it was stopped or killed, and waits for another process at it."""

import fcntl
import json
import shutil
import threading

import pytest
from support.by_hand import CPU, DENSE, cell, same

from sparselth import SparselthError
from sparselth.study.execution.compute import Work
from sparselth.study.plan.cells import MASKS


class Killed(BaseException):
    """No error that anything handles."""


def test_what_a_kill_left_out_after_a_checkpoint_is_made_up_for(work, config, tmp_path):
    other = Work(config, tmp_path, CPU)
    other.draw(DENSE, "theta_0")

    def kill(record):
        raise Killed

    with pytest.raises(Killed):
        other.compute(DENSE, on_epoch_end=kill)
    # As if it had come a moment earlier, in the middle of writing.
    place = other.folder.checkpoints(DENSE.folder).path
    (place / "overlap.json").rename(place / ".overlap.json.x1.tmp")
    shutil.rmtree(place.with_name("dense-epoch-k"))
    assert other.history(DENSE) is None
    other.compute(DENSE)
    assert same(other.trained(DENSE), work.trained(DENSE))
    assert same(other.theta_k(DENSE), work.theta_k(DENSE))
    assert other.trace(DENSE) == work.trace(DENSE)
    assert not list(tmp_path.rglob("*.tmp"))


def test_so_is_what_follows_the_last_checkpoint(beginning):
    work = beginning()
    path = work.folder.checkpoints(DENSE.folder).path / "overlap.json"
    whole = path.read_bytes()
    rows = json.loads(whole)
    path.write_text(json.dumps(rows[:-1]))
    assert work.history(DENSE) is None
    before = {p: p.stat().st_mtime_ns for p in path.parent.glob("epoch-*")}
    work.compute(DENSE)
    assert path.read_bytes() == whole
    assert work.history(DENSE) is not None
    assert {p: p.stat().st_mtime_ns for p in path.parent.glob("epoch-*")} == before


def test_it_waits_while_another_process_is_at_the_cell(beginning):
    work = beginning()
    with (work.folder.checkpoints(cell(MASKS).folder).path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=work.compute, args=(cell(MASKS),), daemon=True)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_search_that_was_stopped_goes_on(beginning):
    work = beginning(generators=("admm",))

    def kill(record):
        raise Killed

    with pytest.raises(Killed):
        work.compute(cell(MASKS, "admm"), on_epoch_end=kill)
    assert work.history(cell(MASKS, "admm")) is None
    seen = []
    work.compute(cell(MASKS, "admm"), on_epoch_end=lambda record: seen.append(record.epoch))
    stopped = work.found(cell(MASKS, "admm"))
    assert seen == [2]
    for name in ("masks", "search"):
        shutil.rmtree(work.folder.checkpoints(cell(name, "admm").folder).path)
    work.compute(cell(MASKS, "admm"))
    whole = work.found(cell(MASKS, "admm"))
    assert same(stopped.masks, whole.masks)
    assert stopped.report == whole.report
    assert set(whole.report) == {"relative_residual"}


def test_lost_weights_of_epoch_k_say_what_to_delete(beginning):
    work = beginning()
    shutil.rmtree(work.folder.checkpoints(f"{DENSE.folder}-epoch-k").path)
    with pytest.raises(SparselthError, match=r"delete .*/dense and .*/dense-epoch-k and start"):
        work.theta_k(DENSE)
