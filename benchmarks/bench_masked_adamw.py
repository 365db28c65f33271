"""sl.optim.AdamW against torch's AdamW followed by multiplying the masks back in, at 90 %."""

from __future__ import annotations

import pytest
from optimizers import NETWORKS, compare_steps


@pytest.mark.parametrize("name", NETWORKS)
def bench_masked_adamw(compare, device, name):
    options = {"lr": 1e-4, "weight_decay": 1e-2}
    compare_steps(compare, device, name, "AdamW", "masked_adamw_", **options)
