"""A job of a cluster that dies names its log, and one that is refused is a failure as any other."""

import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from support.jobs import Fail

from sparselth.study import Submitit
from sparselth.study.execution.jobs import CellError


def test_a_cluster_job_that_dies_names_its_log(tmp_path, monkeypatch):
    # It finds the class of its job where the tests do.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
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
