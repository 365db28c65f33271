"""Peak memory of a training step, sparse beside dense: what both take beyond torch itself."""

from __future__ import annotations

import pytest
from memory import peak_of

from sparselth.bench.ratios import Ratio
from sparselth.bench.step import LARGER_MODELS, MODELS

CONTESTANTS = ("sparse", "sparse bf16", "dense", "dense channels_last", "reference")
DENSE = ("dense", "dense channels_last")

CASES = [
    *((name, sparsity) for name in MODELS for sparsity in (0.5, 0.9, 0.99)),
    *((name, 0.9) for name in LARGER_MODELS),
]


@pytest.mark.parametrize(("name", "sparsity"), CASES)
def bench_memory(benchmark, record, name, sparsity):
    peaks = {contestant: peak_of(name, sparsity, contestant) for contestant in CONTESTANTS}
    record(
        peaks,
        Ratio("less than dense fp32, the smaller layout", DENSE),
        Ratio("less than dense fp32, ours in bf16", DENSE, ("sparse bf16",)),
        Ratio("less than dense fp32 with masks kept", ("reference",)),
        op="peak memory of a training step",
        problem=name,
        sparsity=sparsity,
        unit="MiB",
    )
    # The plugin drops what was recorded unless something is timed.
    benchmark.pedantic(lambda: None, rounds=1)
