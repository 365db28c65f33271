"""What a masked layer costs besides its arithmetic: one so small that hardly any is left.

A convolution on its own converts its input and its output; of ten in a row only the ends do.

`upkeep` is what keeping the mask costs in every forward: noticing writes to weight, mask and slots.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.bench.ratios import Ratio

LAYERS = {
    "conv 3x3, 16 channels, 8x8, batch 1": (lambda: nn.Conv2d(16, 16, 3, padding=1), (1, 16, 8, 8)),
    "ten of them in a row": (
        lambda: nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(10))),
        (1, 16, 8, 8),
    ),
    "linear 64x64, batch 1": (lambda: nn.Linear(64, 64), (1, 64)),
}


def _layer(make, sparsity):
    layer = make()
    if sparsity is not None:
        sl.sparsify(layer, sl.find_masks(layer, sparsity=sparsity, exclude=()))
    return layer


def _forward(layer, x):
    def run() -> None:
        for _ in range(100):
            layer(x)

    return run


def _both(layer, x):
    gradient = torch.ones_like(layer(x))
    x = x.clone().requires_grad_()

    def run() -> None:
        for _ in range(100):
            layer(x).backward(gradient)

    return run


@pytest.mark.parametrize("passes", ["forward", "forward and backward"])
@pytest.mark.parametrize("name", LAYERS)
def bench_small_layer(compare, name, passes):
    make, shape = LAYERS[name]
    x = torch.randn(shape)
    timed = _forward if passes == "forward" else _both
    sparse = _layer(make, 0.9)
    candidates = {"masked": timed(sparse, x), "dense": timed(_layer(make, None), x)}
    if hasattr(sparse, "_settled"):

        def upkeep() -> None:
            for _ in range(100):
                sparse._settled()

        candidates["upkeep"] = upkeep
    torch.set_num_threads(1)
    compare(
        candidates,
        Ratio("the plain layer", ("dense",), ours=("masked",)),
        op=f"100 calls of a small layer: {passes}",
        problem=name,
        sparsity=0.9,
    )
