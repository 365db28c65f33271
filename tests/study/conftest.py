"""A study small enough to run many times."""

import pytest

from sparselth.study import StudyConfig


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(scope="session")
def tiny():
    return StudyConfig(
        width=0.125,
        train_limit=48,
        test_limit=32,
        batch_size=16,
        learning_rates=(0.05,),
        sparsities=(0.5, 0.9),
        epochs=2,
        admm_epochs=2,
        admm_update_every=1,
        timing_steps=1,
        timing_rounds=1,
    )
