"""A training step beside busy programs on the same cores: how much slower than alone.

Each other program is a loop that never rests. A fair share of 2 cores beside one is two thirds: a
step that took 1.5 times as long would have lost nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import pytest
import torch

from sparselth.bench.ratios import Ratio, row_of
from sparselth.bench.step import CONTESTANTS

SPARSITY = 0.95
STEPS = {"sparse": "sparse", "dense": "dense channels_last"}
ROUNDS, STEPS_IN_A_ROW = 4, 4


@contextmanager
def busy_program() -> Iterator[None]:
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def medians(steps) -> dict[str, float]:
    """Return the median milliseconds of a step of each; they take turns, a few in a row."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            for _ in range(STEPS_IN_A_ROW):
                begin = time.perf_counter()
                step()
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: median(each) for name, each in times.items()}


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def bench_beside_others(benchmark, record_rows, name):
    steps = {what: CONTESTANTS[contestant](name, SPARSITY) for what, contestant in STEPS.items()}
    for step in steps.values():
        step()
    alone, rows = medians(steps), []
    with ExitStack() as stack:
        for others in (1, 2, 3):
            stack.enter_context(busy_program())
            time.sleep(0.5)
            beside = medians(steps)
            rows += [
                row_of(
                    {"alone": alone[what], "beside": beside[what]},
                    [Ratio("the same alone", ("alone",), ("beside",))],
                    op=f"{what} step beside busy programs",
                    problem=f"{name}, {others} beside it",
                    sparsity=SPARSITY,
                    threads=torch.get_num_threads(),
                )
                for what in steps
            ]
    record_rows(rows)
    benchmark.pedantic(steps["sparse"], rounds=1)  # the plugin wants a measurement of its own
