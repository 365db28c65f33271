"""Candidates timed in turn within one run, so that a slow moment of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _milliseconds(call: Callable[[], object]) -> float:
    _finish()
    start = time.perf_counter()
    call()
    _finish()
    return 1e3 * (time.perf_counter() - start)


# Calls that each candidate gets at least.
_CALLS = 9


def _steady(call: Callable[[], object]) -> list[float]:
    """Time some calls in a row: the first ones bring caches and threads in. Long ones need none."""
    times: list[float] = []
    while sum(times) < 15 or (len(times) < 3 and sum(times) < 50):
        times.append(_milliseconds(call))
    return times


def best_times(
    candidates: Mapping[str, Callable[[], object]],
    before: Callable[[str], object] = lambda name: None,
    seconds: float = 1.5,
) -> tuple[dict[str, float], int]:
    """Time the candidates in turn; return the minima in milliseconds, and the rounds.

    before: called before each candidate, with its name, untimed.  seconds: how long they take
    turns, at least: until each was called nine times. Calls that take long alternate one by one, as
    slow moments of a machine last for seconds.
    """
    best = dict.fromkeys(candidates, float("inf"))
    calls = dict.fromkeys(candidates, 0)
    for name, call in candidates.items():
        before(name)
        call()
    deadline = time.perf_counter() + seconds
    rounds = 0
    while min(calls.values(), default=_CALLS) < _CALLS or (
        rounds < 100 and time.perf_counter() < deadline
    ):
        rounds += 1
        for name, call in candidates.items():
            before(name)
            times = _steady(call)
            best[name] = min(best[name], *times)
            calls[name] += len(times)
    return best, rounds
