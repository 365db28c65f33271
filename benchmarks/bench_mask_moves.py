"""What masks cost that move while a network trains: RigL, SET and gradual pruning.

In rounds, the same few steps with and without a move among them, to the same model in turn. A move
is what its step takes more: gradients by all weights where the method wants them, the masks chosen
and set, plans rebuilt, and whatever the steps after have to measure again.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
import torch.nn.functional as F

import sparselth as sl
from sparselth.bench.ratios import Ratio
from sparselth.bench.step import BATCH, MODELS, SGD_OPTIONS
from sparselth.models import build
from sparselth.pruning import SET, GradualPruning, RigL

STEPS, ROUNDS = 3, 7
MOVES = 100  # the published interval: what a move takes is a share of so many steps


def rigl(model):
    return RigL(model, end=STEPS * (ROUNDS + 2) * 10, every=STEPS, drop=0.3)


def sets(model):
    return SET(model, end=STEPS * (ROUNDS + 2) * 10, every=STEPS, drop=0.3)


def gradual(model):
    """From 80 to 95 % in 50 moves, as a long run does: the first of them."""
    end = STEPS * 50
    return GradualPruning(model, 0.95, first=0.8, end=end, every=STEPS, schedule="linear")


def hasty(model):
    """From 80 to 95 % in 9 moves: at every second kernels are measured anew, a fifth less dense.

    Over all of a long run that happens six times.
    """
    end = STEPS * (ROUNDS + 2)
    return GradualPruning(model, 0.95, first=0.8, end=end, every=STEPS, schedule="linear")


@pytest.mark.parametrize("method", [rigl, sets, gradual, hasty])
@pytest.mark.parametrize("name", MODELS)
def bench_mask_moves(benchmark, record, name, method):
    model = build(name, num_classes=10, in_channels=3)
    sparsity = 0.8 if method in (gradual, hasty) else 0.95
    if method in (rigl, sets):
        sl.sparsify(model, sl.find_masks(model, sparsity=sparsity))
    pruning = method(model)
    optimizer = sl.optim.SGD(model.parameters(), **SGD_OPTIONS)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def steps(moving: bool) -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
            if moving:
                pruning.step()
        step()  # the first on the new masks
        return 1e3 * (time.perf_counter() - start)

    steps(True), steps(False)
    moving, still = [], []
    for _ in range(ROUNDS):
        moving.append(steps(True))
        still.append(steps(False))
    one = statistics.median(still) / (STEPS + 1)
    move = max(statistics.median(moving) - statistics.median(still), 1e-3)
    record(
        {"a move": move, f"{MOVES} steps": MOVES * one},
        Ratio(f"{MOVES} steps", (f"{MOVES} steps",), ours=("a move",)),
        op=f"masks that move while a network trains: {method.__name__}",
        problem=name,
        sparsity=sparsity,
    )
    benchmark.pedantic(step, rounds=1)
