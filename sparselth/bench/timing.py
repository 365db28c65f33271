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


def _steady(call: Callable[[], object]) -> float:
    """Return the best of some calls in a row: the first ones bring caches and threads in."""
    best, calls, start = float("inf"), 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - start < 0.015:
        best = min(best, _milliseconds(call))
        calls += 1
    return best


def best_times(
    candidates: Mapping[str, Callable[[], object]],
    before: Callable[[str], object] = lambda name: None,
    seconds: float = 1.5,
) -> tuple[dict[str, float], int]:
    """Time the candidates in turn; return the minima in milliseconds, and the rounds.

    before: called before each candidate, with its name, untimed.  seconds: how long they take
    turns; three rounds at least.
    """
    best = dict.fromkeys(candidates, float("inf"))
    for name, call in candidates.items():
        before(name)
        call()
    deadline = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or (rounds < 100 and time.perf_counter() < deadline):
        rounds += 1
        for name, call in candidates.items():
            before(name)
            best[name] = min(best[name], _steady(call))
    return best, rounds
