"""sl.optim.SGD against torch's SGD followed by multiplying the masks back in, at 90 % sparsity."""

from __future__ import annotations

import pytest
from optimizers import NETWORKS, compare_steps


@pytest.mark.parametrize("name", NETWORKS)
def bench_masked_sgd(compare, device, name):
    options = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
    compare_steps(compare, device, name, "SGD", "masked_sgd_", **options)
