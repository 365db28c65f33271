"""Shared by all tests: fixed seeds, and hypothesis runs that are the same on every machine."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "sparselth",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("sparselth")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
