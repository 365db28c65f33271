"""sl.optim.AdamW against torch's AdamW followed by multiplying the masks back in, at 90 %."""

from __future__ import annotations

import pytest

from sparselth.bench.optimizer import NETWORKS, SPARSITY, candidates, ratio_of


@pytest.mark.parametrize("name", NETWORKS)
def bench_masked_adamw(compare, device, name):
    compare(
        candidates(name, "AdamW", SPARSITY, device),
        ratio_of("AdamW"),
        op="masked_adamw_",
        device=device,
        problem=name,
        sparsity=SPARSITY,
    )
