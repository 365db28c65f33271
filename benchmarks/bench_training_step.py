"""One whole training step, sparse against the same step done densely.

At 0 and 50 % sparsity the masked modules choose dense: there they may not be slower than it.
Ours and theirs may both be given channels_last images; the better one counts.
"""

from __future__ import annotations

import pytest
from problems import AUTO_SPARSITIES
from ratios import Ratio
from training import CONTESTANTS, MODELS

OURS = ("sparse", "sparse channels_last")


@pytest.mark.parametrize("sparsity", AUTO_SPARSITIES)
@pytest.mark.parametrize("name", MODELS)
def bench_training_step(compare, name, sparsity):
    compare(
        {contestant: make(name, sparsity) for contestant, make in CONTESTANTS.items()},
        Ratio("best dense fp32", ("dense", "dense channels_last"), OURS),
        Ratio("dense fp32 with masks kept", ("reference", "reference channels_last"), OURS),
        Ratio("dense bf16", ("dense bf16 channels_last",), OURS),
        op="training step",
        problem=name,
        sparsity=sparsity,
    )
