"""Shared by all tests: fixed seeds, fixed choices, and hypothesis runs that repeat everywhere."""

import importlib.util
import os

# Before sparselth is imported. Tests of measured choices ask for them.
os.environ["SPARSELTH_CHOICE"] = "fixed"
# Processes that share the tests share the cores: threads that wait for each other cost far more.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest
import torch

from sparselth.ops import libraries

# A machine with a GPU may lack it; tests that draw nothing run there all the same.
if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "sparselth",
        derandomize=True,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    # New cases in every run, and more of them: HYPOTHESIS_PROFILE=explore.
    settings.register_profile(
        "explore", settings.get_profile("sparselth"), derandomize=False, max_examples=1000
    )
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "sparselth"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """Compute on one thread: small networks gain nothing, and a busy machine loses a lot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def traveling(monkeypatch):
    """Let activations travel in lanes, through the oracles where nothing is compiled."""
    monkeypatch.setattr(libraries, "has_kernel", lambda op, backend: backend == "cpu")
