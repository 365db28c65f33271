"""Peak memory of a training step, sparse beside dense: what both take beyond torch itself."""

from __future__ import annotations

import pytest
from memory import peak_of

from sparselth.bench.ratios import Ratio
from sparselth.bench.step import MODELS

CONTESTANTS = ("sparse", "dense", "dense channels_last", "reference")


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", MODELS)
def bench_memory(benchmark, record, name, sparsity):
    peaks = {contestant: peak_of(name, sparsity, contestant) for contestant in CONTESTANTS}
    record(
        peaks,
        Ratio("less than dense fp32, the smaller layout", ("dense", "dense channels_last")),
        Ratio("less than dense fp32 with masks kept", ("reference",)),
        op="peak memory of a training step",
        problem=name,
        sparsity=sparsity,
        unit="MiB",
    )
    # The plugin drops what was recorded unless something is timed.
    benchmark.pedantic(lambda: None, rounds=1)
