"""Where jobs run: side by side and on a cluster to the same numbers, and what dies alone."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch

from sparselth import SparselthError, study
from sparselth.study import InProcess, Processes, Submitit
from sparselth.study.execution.executors import checked_device
from sparselth.study.execution.jobs import CellError
from sparselth.study.execution.workers import Worker

# Processes that are spawned import this file again: keep what it does on import small.


@dataclasses.dataclass(frozen=True)
class Say:
    """Tell which process this is, and on what; `path` says that it has begun."""

    path: Path | None = None
    seconds: float = 0.0

    def __call__(self, device):
        if self.path is not None:
            self.path.write_text(f"{os.getpid()} {torch.get_num_threads()}")
            time.sleep(self.seconds)
        return {"pid": os.getpid(), "device": device, "threads": torch.get_num_threads()}


@dataclasses.dataclass(frozen=True)
class Fail:
    """Raise, or end the whole process."""

    code: int = 0

    def __call__(self, device):
        if self.code:
            os._exit(self.code)
        raise RuntimeError(f"no luck on {device}")


@dataclasses.dataclass(frozen=True)
class Deaf:
    """Leave the process as a training does where SIGTERM comes too late."""

    def __call__(self, device):
        signal.signal(signal.SIGTERM, lambda *_: None)


def wait_for(condition, seconds=60):
    begin = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - begin < seconds, "it never came"
        time.sleep(0.02)
    return found


def told(path):
    """Return process and threads of a `Say` that has begun."""
    return tuple(map(int, path.read_text().split())) if path.is_file() else ()


def is_running(pid):
    """Tell whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module", autouse=True)
def _no_report():
    """Leave out the pages and plots, which take longer than a tiny study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparselth.study.runner.write_report", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def pool():
    pool = Processes(2, "cpu", threads=1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def small(tiny):
    return dataclasses.replace(
        tiny, generators=("magnitude",), sparsities=(0.9,), protocols=("ticket", "finetune")
    )


@pytest.fixture(scope="module")
def done(small, tmp_path_factory):
    """The study in this process."""
    folder = tmp_path_factory.mktemp("in-process") / "run"
    return folder, study.run(small, folder, device="cpu")


def numbers(summary):
    """Return what no clock decides."""
    clocks = ("seconds", "seconds_per_epoch")
    cells = [{k: v for k, v in c.items() if k not in clocks} for c in summary["cells"]]
    names = ("masks", "overlaps", "layer_overlaps", "traces", "failures", "differences", "claims")
    return json.loads(json.dumps([cells, *(summary[name] for name in names)]))


class Kept:
    """A pool that a study uses but does not close."""

    def __init__(self, pool):
        self.slots, self.local, self.poll_seconds = pool.slots, pool.local, pool.poll_seconds
        self.submit = pool.submit

    def close(self):
        pass


def test_nothing_starts_before_its_first_job(pool):
    assert [worker.process for worker in pool.workers] == [None, None]


@pytest.mark.slow
def test_the_same_numbers_side_by_side(pool, small, done, tmp_path):
    summary = study.run(small, tmp_path / "run", executor=Kept(pool))
    assert numbers(summary) == numbers(done[1])


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


@pytest.mark.slow
def test_the_same_numbers_on_a_cluster(small, done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)  # of which one training is done again
    place = folder / "checkpoints/resnet20/mnist5k/lr0.05/seed0/magnitude-0.9/finetune"
    shutil.rmtree(place)
    executor = Submitit(folder, cluster="local", jobs=2, device="cpu")
    executor.poll_seconds = 0.05
    summary = study.run(small, folder, executor=executor)
    assert numbers(summary) == numbers(done[1])
    assert place.is_dir()
    assert len(list((folder / "jobs").glob("*_log.out"))) == 2  # the other describes the machine
    assert executor.running == []


def test_a_cluster_job_that_dies_names_its_log(tmp_path, monkeypatch):
    # It finds the class of its job where this file stands.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    executor = Submitit(tmp_path, cluster="local", jobs=1, device="cpu")
    running = executor.submit(Fail(3))
    with pytest.raises(CellError, match=r"without an answer, see .*_log\.err$") as failed:
        running.result()
    assert Path(str(failed.value).rpartition(" ")[2]).is_file()
    assert failed.value.trace == ""  # nothing was raised on the way there
    assert executor.running == []


def test_a_job_that_the_cluster_refuses_is_a_failure_like_any_other(tmp_path, monkeypatch):
    import submitit

    executor = Submitit(tmp_path, cluster="local", jobs=1, device="cpu")
    refused = submitit.core.utils.FailedSubmissionError("sbatch: invalid partition\nno such")
    monkeypatch.setattr(submitit.AutoExecutor, "submit", mock.Mock(side_effect=refused))
    with pytest.raises(CellError, match="refused its job: sbatch: invalid partition no such") as e:
        executor.submit(Fail(3))
    assert "FailedSubmissionError" in e.value.trace
    assert executor.running == []


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
from test_executors import Say

if __name__ == "__main__":
    Processes(1, "cpu", threads=3).submit(Say(Path(sys.argv[1]), 600)).result()
"""


def test_a_worker_ends_with_a_study_that_is_killed(tmp_path):
    script, path = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
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


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Processes(0, "cpu"), "there is no GPU to give each worker one"),
        (lambda: Processes(-1, "cpu"), "got -1 workers of 0 threads"),
        (lambda: Processes(2, "cpu", threads=-1), "got 2 workers of -1 threads"),
        (lambda: Processes(2, "tpu"), "unknown device 'tpu'; known: auto, cpu, cuda"),
        (lambda: InProcess("gpu"), "unknown device 'gpu'"),
        (lambda: Submitit("x", "lsf"), "refuses the cluster 'lsf'"),
        (lambda: Submitit("x", "local", options={"partitoin": "gpu"}), "refuses .* the options"),
        (lambda: Submitit("x", "local", jobs=0), "got 0 jobs at once"),
    ],
)
def test_what_no_executor_can_be(make, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SparselthError, match=says):
        make()
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_auto_is_the_cpu_and_cuda_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert checked_device("auto") == "cpu"
    with pytest.raises(SparselthError, match="torch sees no GPU here"):
        checked_device("cuda")
    with pytest.raises(SparselthError, match="torch sees no GPU here"):
        Processes(2, "cuda")


def test_with_gpus_workers_take_them_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert checked_device("auto") == checked_device("cuda") == "cuda:0"
    assert checked_device("cpu") == "cpu"
    assert [w.device for w in Processes(0).workers] == ["cuda:0", "cuda:1"]
    assert [w.device for w in Processes(3, "cuda").workers] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [w.device for w in Processes(2, "cpu").workers] == ["cpu", "cpu"]


def test_threads_are_shared_evenly(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert [w.threads for w in Processes(2, "cpu").workers] == [2, 2]
    assert [w.threads for w in Processes(8, "cpu").workers] == [1] * 8
    assert [w.threads for w in Processes(2, "cpu", threads=3).workers] == [3, 3]


def test_where_nothing_runs_the_study_says_so(small, tmp_path):
    class Broken(InProcess):
        def submit(self, job):
            return super().submit(Fail())

    with pytest.raises(SparselthError, match="nothing can be computed: no luck on cpu"):
        study.run(small, tmp_path / "run", executor=Broken("cpu"))
