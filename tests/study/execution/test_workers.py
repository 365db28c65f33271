"""Processes that run jobs: those that die, those that stay, and how they end."""

import os
import signal
import subprocess
import sys

import pytest
from support.jobs import Deaf, Fail, Say, is_running, told, wait_for

from sparselth.study import InProcess, Processes
from sparselth.study.execution.jobs import CellError
from sparselth.study.execution.workers import Worker


def test_nothing_starts_before_its_first_job(pool):
    assert [worker.process for worker in pool.workers] == [None, None]


def test_jobs_run_side_by_side_in_processes_that_stay(pool, tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    first, second = (pool.submit(Say(path, 0.3)) for path in paths)
    wait_for(lambda: all(map(told, paths)))
    assert pool.idle == []
    found = [first.result(), second.result()]
    assert {told(path)[0] for path in paths} == {answer["pid"] for answer in found}
    assert len({os.getpid(), *(answer["pid"] for answer in found)}) == 3
    assert all((a["device"], a["threads"]) == ("cpu", 1) for a in found)
    assert pool.submit(Say()).result()["pid"] in {answer["pid"] for answer in found}


def test_a_job_that_raises_says_so_and_where(pool):
    before = pool.submit(Say()).result()["pid"]
    for executor in (pool, InProcess("cpu")):
        with pytest.raises(CellError, match="no luck on cpu") as failed:
            executor.submit(Fail()).result()
        assert "raise RuntimeError" in failed.value.trace
    assert before in {worker.process.pid for worker in pool.workers if worker.process}


def test_a_process_that_dies_takes_only_its_job(pool, tmp_path):
    first, second = (
        pool.submit(Say(tmp_path / name, wait)) for name, wait in (("a", 60), ("b", 1))
    )
    os.kill(wait_for(lambda: told(tmp_path / "a"))[0], signal.SIGKILL)
    wait_for(first.finished)
    with pytest.raises(CellError, match="ended with exit code -9, killed, perhaps for want of mem"):
        first.result()
    assert second.result()["device"] == "cpu"


def test_so_does_one_that_dies_before_it_has_read_its_job(pool):
    pool.idle.sort(key=lambda worker: worker.process is None)
    worker = pool.idle[-1]
    running = pool.submit(Say())  # starts it; its imports take seconds
    worker.process.kill()
    wait_for(running.finished)
    with pytest.raises(CellError, match="ended with exit code -9"):
        running.result()
    assert len(pool.idle) == 2


def test_one_that_dies_idle_is_replaced(pool):
    pool.submit(Say()).result()
    pool.idle.sort(key=lambda worker: worker.process is not None)
    before = pool.idle[-1].process
    before.kill()
    before.join()
    assert pool.submit(Say()).result()["pid"] not in (before.pid, os.getpid())


def test_closing_ends_a_process_that_did_not_hear_of_it(pool):
    pool.idle.sort(key=lambda worker: worker.process is not None)
    pool.submit(Deaf()).result()
    pids = [worker.process.pid for worker in pool.workers if worker.process]
    pool.close()
    assert pids
    assert not any(map(is_running, pids))
    pool.close()


def test_the_worker_used_last_goes_first(monkeypatch):
    monkeypatch.setattr(Worker, "submit", lambda self, job: None)
    monkeypatch.setattr(Worker, "result", lambda self: None)
    pool = Processes(3, "cpu", 1)
    first, second = pool.submit(Say()), pool.submit(Say())
    assert [first.worker, second.worker] == pool.workers[:2]
    second.result()
    first.result()
    assert pool.submit(Say()).worker is first.worker


SCRIPT = """
import sys
from pathlib import Path
from sparselth.study import Processes
from support.jobs import Say

if __name__ == "__main__":
    Processes(1, "cpu", threads=3).submit(Say(Path(sys.argv[1]), 600)).result()
"""


def test_a_worker_ends_with_a_study_that_is_killed(tmp_path):
    script, path = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, str(script), str(path)], env=env)
    try:
        wait_for(lambda: process.poll() is not None or told(path), 120)
        worker, threads = told(path)
        assert threads == 3
        assert is_running(worker)
        assert worker != process.pid
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not is_running(worker), 10)
