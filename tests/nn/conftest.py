"""A clock that tests set, in place of measuring."""

import pytest
from support.stop_watch import Fake

import sparselth as sl
from sparselth.ops.kernel_choice import known, measure_cpu


@pytest.fixture
def clock(monkeypatch):
    fake = Fake()
    monkeypatch.setattr(measure_cpu, "measure_conv", fake)
    monkeypatch.setattr(measure_cpu, "measure_linear", fake)
    known.clear_choices()
    with sl.use_choice("measured"):
        yield fake
    known.clear_choices()
