"""The `compare` fixture: candidates timed in turn within one run, minima and ratios recorded.

Without pytest-benchmark all is measured all the same, and kept where SPARSELTH_BENCH_ROWS says.

pytest benchmarks --benchmark-json=bench.json
python benchmarks/report.py bench.json              table, and a file under benchmarks/results/
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch

import sparselth as sl
from sparselth.bench.ratios import Ratio, row_of
from sparselth.bench.timing import best_times

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
        threads = torch.get_num_threads()
        benchmark.extra_info.update(row_of(values, ratios, **{"threads": threads, **facts}))
        _write_rows([benchmark.extra_info])

    return keep


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
        best, rounds = best_times(candidates, before, SECONDS[facts.get("device", "cpu")])
        record(best, *ratios, rounds=rounds, **facts)
        # The plugin wants a measurement of its own; the figures above are the ones to read.
        benchmark.pedantic(candidates[ratios[0].ours[0]], rounds=1)

    return run
