"""How sparse and dense scale from one thread to two, at 95 % sparsity."""

from __future__ import annotations

import pytest
import torch

from sparselth.bench.conv import dense_steps, sparse_steps
from sparselth.bench.layers import LAYERS, conv_problem
from sparselth.bench.ratios import Ratio
from sparselth.bench.step import CONTESTANTS, MODELS

SPARSITY = 0.95
THREADS = {"1 thread": 1, "2 threads": 2}


@pytest.fixture
def threads():
    """Return a function that sets the threads by their name; what was set before comes back."""
    previous = torch.get_num_threads()

    def use(name: str) -> None:
        torch.set_num_threads(THREADS[name])
        # A pool that grows starts its threads on the next parallel loop: not in the timed one.
        torch.empty(1 << 20).fill_(0)

    yield use
    torch.set_num_threads(previous)


def scaling(compare, threads, call, problem: str) -> None:
    compare(
        dict.fromkeys(THREADS, call),
        Ratio("one thread", ("1 thread",), ours=("2 threads",)),
        before=threads,
        op="two threads",
        problem=problem,
        sparsity=SPARSITY,
    )


@pytest.mark.parametrize("contestant", ["sparse", "dense"])
@pytest.mark.parametrize("name", MODELS)
def bench_threads_of_a_training_step(compare, threads, name, contestant):
    call = CONTESTANTS[contestant](name, SPARSITY)
    scaling(compare, threads, call, f"training step, {name}, {contestant}")


@pytest.mark.parametrize("contestant", ["sparse", "dense"])
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[5]], ids=str)
def bench_threads_of_a_layer(compare, threads, layer, contestant):
    problem = conv_problem(layer, SPARSITY)
    steps = {**sparse_steps(problem), **dense_steps(problem, "dense")}
    scaling(compare, threads, steps[contestant], f"{layer}, {contestant}")
