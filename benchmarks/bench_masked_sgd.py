"""sl.optim.SGD against torch's SGD followed by multiplying the masks back in, at 90 % sparsity."""

from __future__ import annotations

import pytest

from sparselth.bench.optimizer import NETWORKS, SPARSITY, candidates, ratio_of


@pytest.mark.parametrize("name", NETWORKS)
def bench_masked_sgd(compare, device, name):
    compare(
        candidates(name, "SGD", SPARSITY, device),
        ratio_of("SGD"),
        op="masked_sgd_",
        device=device,
        problem=name,
        sparsity=SPARSITY,
    )
