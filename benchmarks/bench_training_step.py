"""One whole training step, sparse against the same step done densely.

At 0 and 50 % sparsity the masked modules choose dense: there they may not be slower than it.
Ours and theirs may both be given channels_last images; the better one counts.
"""

from __future__ import annotations

import pytest

from sparselth.bench.layers import AUTO_SPARSITIES
from sparselth.bench.step import CONTESTANTS, LARGER_MODELS, MODELS, RATIOS

CASES = [
    *((name, sparsity) for name in MODELS for sparsity in AUTO_SPARSITIES),
    *((name, sparsity) for name in LARGER_MODELS for sparsity in (0.9, 0.95, 0.98)),
]


@pytest.mark.parametrize(("name", "sparsity"), CASES)
def bench_training_step(compare, name, sparsity):
    compare(
        {contestant: make(name, sparsity) for contestant, make in CONTESTANTS.items()},
        *RATIOS,
        op="training step",
        problem=name,
        sparsity=sparsity,
    )
