"""The `compare` fixture: candidates timed in turn within one run, minima and ratios recorded.

pytest benchmarks --benchmark-json=build/bench.json
python benchmarks/report.py build/bench.json        table, and a file under benchmarks/results/
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pytest
import torch

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


@pytest.fixture
def compare(benchmark):
    """Return `compare(candidates, baselines, **facts)`.

    Every round calls each candidate once, so that a slow moment of the machine hits all alike;
    the minimum counts. `speedup` is the best of `baselines` over the first candidate that is not
    a baseline.
    """

    def run(
        candidates: Mapping[str, Callable[[], object]], baselines: tuple[str, ...], **facts
    ) -> None:
        subject = next(name for name in candidates if name not in baselines)
        best = dict.fromkeys(candidates, float("inf"))
        for call in candidates.values():
            call()
        deadline = time.perf_counter() + 1.5
        rounds = 0
        while rounds < 5 or (rounds < 200 and time.perf_counter() < deadline):
            rounds += 1
            for name, call in candidates.items():
                _finish()
                start = time.perf_counter()
                call()
                _finish()
                best[name] = min(best[name], time.perf_counter() - start)
        dense = min(best[name] for name in baselines)
        benchmark.extra_info.update(
            **{"device": "cpu", **facts},
            rounds=rounds,
            threads=torch.get_num_threads(),
            subject=subject,
            milliseconds={name: round(1e3 * t, 4) for name, t in best.items()},
            speedup=round(dense / best[subject], 3),
        )
        # The plugin wants a measurement of its own; the figures above are the ones to read.
        benchmark.pedantic(candidates[subject], rounds=1)

    return run
