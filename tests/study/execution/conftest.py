"""A study of one dense network and one mask, copies of it to go on from, and two workers."""

import dataclasses
import shutil

import pytest
from support.by_hand import CPU, DENSE, SPARSITY, cell

from sparselth import data
from sparselth.study import Processes
from sparselth.study.execution.compute import Work
from sparselth.study.plan.cells import MASKS
from sparselth.study.plan.protocols import PROTOCOLS


@pytest.fixture(scope="module")
def config(tiny):
    return dataclasses.replace(
        tiny,
        epochs=3,
        rewind_epoch=1,
        sparsities=(SPARSITY,),
        protocols=tuple(PROTOCOLS),
        imp_rate=0.2,
    )


@pytest.fixture(scope="module")
def digits(config):
    return data.load("mnist5k").limited(config.train_limit, config.test_limit)


@pytest.fixture(scope="module")
def work(config, tmp_path_factory):
    """Initializations, the dense network, and masks by magnitude."""
    work = Work(config, tmp_path_factory.mktemp("work"), CPU)
    for draw in ("theta_0", "theta_0_prime", "theta_scratch"):
        work.draw(DENSE, draw)
    work.compute(DENSE)
    work.compute(cell(MASKS))
    return work


@pytest.fixture
def beginning(work, tmp_path):
    """Return a copy of what `work` began with, under other settings."""

    def begin(**settings):
        copy = Work(dataclasses.replace(work.config, **settings), tmp_path, CPU)
        for name in ("dense", "dense-epoch-k", "magnitude-0.4/masks"):
            name = f"checkpoints/resnet20/mnist5k/lr0.05/seed0/{name}"
            shutil.copytree(work.folder.path / name, tmp_path / name)
        shutil.copytree(work.folder.path / "checkpoints/init", tmp_path / "checkpoints/init")
        return copy

    return begin


@pytest.fixture(scope="module")
def pool():
    pool = Processes(2, "cpu", threads=1)
    yield pool
    pool.close()
