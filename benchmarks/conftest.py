"""The `compare` fixture: candidates timed in turn within one run, minima and ratios recorded.

Without pytest-benchmark all is measured all the same, and kept where SPARSELTH_BENCH_ROWS says.

pytest benchmarks --benchmark-json=build/bench.json
python benchmarks/report.py build/bench.json        table, and a file under benchmarks/results/
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from ratios import Ratio, evaluate

import sparselth as sl

# For every candidate alike: what is compared is computing, not the C library's page faults.
sl.keep_freed_memory()

# A file that gets what is recorded at once, one JSON object a line: a run that is killed leaves it.
ROWS = os.environ.get("SPARSELTH_BENCH_ROWS")

# How long candidates take turns. A GPU's times are steadier, and there are many cases for it.
SECONDS = {"cpu": 1.5, "cuda": 0.3}

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    """Every device that is there, for the ops that have kernels on more than one."""
    return request.param


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _milliseconds(call: Callable[[], object]) -> float:
    _finish()
    start = time.perf_counter()
    call()
    _finish()
    return 1e3 * (time.perf_counter() - start)


class _Benchmark:
    """What the files here use of pytest-benchmark's fixture, where that is not installed."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, call: Callable[[], object], rounds: int) -> None:
        for _ in range(rounds):
            call()


if importlib.util.find_spec("pytest_benchmark") is None:

    @pytest.fixture
    def benchmark() -> _Benchmark:
        return _Benchmark()


def _write_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    if ROWS:
        with open(ROWS, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def record_rows(benchmark):
    """Return `record_rows(rows)`: keep several entries of one benchmark."""

    def keep(rows: Iterable[Mapping[str, Any]]) -> None:
        benchmark.extra_info["rows"] = rows = list(rows)
        _write_rows(rows)

    return keep


@pytest.fixture
def record(benchmark):
    """Return `record(values, *ratios, **facts)`: keep what was measured and what it amounts to.

    The first ratio is the main one; `speedup` repeats it.
    """

    def keep(values: Mapping[str, float], *ratios: Ratio, **facts) -> None:
        found = evaluate(values, ratios)
        benchmark.extra_info.update(
            **{"device": "cpu", "threads": torch.get_num_threads(), "unit": "ms", **facts},
            values={name: round(value, 4) for name, value in values.items()},
            ratios=found,
            speedup=found[ratios[0].over]["ratio"],
        )
        _write_rows([benchmark.extra_info])

    return keep


def _steady(call: Callable[[], object]) -> float:
    """Return the best of some calls in a row: the first ones bring caches and threads in."""
    best, calls, start = float("inf"), 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - start < 0.015:
        best = min(best, _milliseconds(call))
        calls += 1
    return best


def _best_times(
    candidates: Mapping[str, Callable[[], object]],
    before: Callable[[str], object],
    seconds: float,
) -> tuple[dict[str, float], int]:
    """Time the candidates in turn; return the minima in milliseconds, and the rounds."""
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


@pytest.fixture
def compare(benchmark, record):
    """Return `compare(candidates, *ratios, **facts)`.

    Every round calls each candidate some times in a row, so that a slow moment of the machine hits
    all alike; the minimum counts. `before(name)` is called before each candidate, untimed.
    """

    def run(
        candidates: Mapping[str, Callable[[], object]],
        *ratios: Ratio,
        before: Callable[[str], object] = lambda name: None,
        **facts,
    ) -> None:
        best, rounds = _best_times(candidates, before, SECONDS[facts.get("device", "cpu")])
        record(best, *ratios, rounds=rounds, **facts)
        # The plugin wants a measurement of its own; the figures above are the ones to read.
        benchmark.pedantic(candidates[ratios[0].ours[0]], rounds=1)

    return run
