"""Candidates in turn, on a clock of our own."""

import pytest

from sparselth.bench import timing
from sparselth.bench.timing import best_times


@pytest.fixture
def clock(monkeypatch):
    """Return a list that holds the time, in seconds."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def candidates(clock, log, **milliseconds):
    def call(name):
        clock[0] += milliseconds[name] / 1e3
        log.append(name)

    return {name: lambda name=name: call(name) for name in milliseconds}


def test_long_calls_alternate_one_by_one(clock):
    log = []
    best, rounds = best_times(candidates(clock, log, ours=100.0, theirs=200.0))
    assert best == pytest.approx({"ours": 100.0, "theirs": 200.0})
    assert rounds == 9
    assert log == ["ours", "theirs"] * 10  # one to warm up


def test_short_calls_come_in_a_row_for_as_long_as_is_asked(clock):
    log = []
    _, rounds = best_times(candidates(clock, log, ours=2.0, theirs=6.0), seconds=0.5)
    turn = ["ours"] * 8 + ["theirs"] * 3
    assert log == ["ours", "theirs", *turn * rounds]
    assert rounds == 15  # of 34 ms


def test_a_slow_one_does_not_shorten_the_turns_of_others(clock):
    log = []
    best_times(candidates(clock, log, ours=2.0, theirs=1000.0))
    assert log.count("theirs") == 10
    assert log.count("ours") == 1 + 9 * 8


def test_the_minimum_counts(clock):
    times = iter([5.0, 3.0, 1.0, 2.0, *[4.0] * 100])

    def call():
        clock[0] += next(times)

    best, _ = best_times({"ours": call})
    assert best == pytest.approx({"ours": 1000.0})
