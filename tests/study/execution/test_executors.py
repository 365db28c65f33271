"""Where jobs run: everywhere to the same numbers, and who gets which GPU and how many threads."""

import dataclasses
import json
import shutil

import pytest
import torch
from support.jobs import Fail

from sparselth import SparselthError, study
from sparselth.study import InProcess, Processes, Submitit
from sparselth.study.execution.executors import checked_device


@pytest.fixture(scope="module", autouse=True)
def _no_report():
    """Leave out the pages and plots, which take longer than a tiny study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparselth.study.runner.write_report", lambda *_: None)
        yield


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


@pytest.mark.slow
def test_the_same_numbers_side_by_side(pool, small, done, tmp_path):
    summary = study.run(small, tmp_path / "run", executor=Kept(pool))
    assert numbers(summary) == numbers(done[1])


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
