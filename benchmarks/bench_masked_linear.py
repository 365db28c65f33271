"""masked_linear against dense: forward and backward through autograd, in fp32 and bf16."""

from __future__ import annotations

import pytest

from sparselth.bench.layers import SPARSITIES
from sparselth.bench.linear import FEATURES, RATIOS, candidates, name_of


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("features", FEATURES)
def bench_masked_linear(compare, features, sparsity):
    compare(
        candidates(features, sparsity),
        *RATIOS,
        op="masked_linear",
        problem=name_of(features),
        sparsity=sparsity,
    )
