"""A network whose pruned channels are gone, against the whole one: inference and a training step.

Channels go in groups (`pattern="coupled"`), the same share of each; what is left is rounded to no
multiple. Both are plain torch, in either layout; the better one counts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparselth as sl
from sparselth.bench.ratios import Ratio
from sparselth.models import build

BATCH = 64
LAYOUTS = {"": torch.contiguous_format, " channels_last": torch.channels_last}
RATIO = Ratio(
    "the whole dense model",
    tuple(f"dense{layout}" for layout in LAYOUTS),
    tuple(f"compacted{layout}" for layout in LAYOUTS),
)


def models(name: str, sparsity: float) -> dict[str, nn.Module]:
    """Return the whole model, and the one without the share of its channels."""
    whole = build(name, num_classes=10, in_channels=3)
    example = torch.randn(2, 3, 32, 32)
    masks = sl.find_masks(whole, sparsity=sparsity, pattern="coupled", data=[(example, None)])
    small = sl.compact(sl.sparsify(copy.deepcopy(whole), masks), example)
    return {"dense": whole, "compacted": small}


def inference(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    model = model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(images)

    return run


def training_step(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    model = model.train()
    labels = torch.randint(0, 10, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
@pytest.mark.parametrize("make", [inference, training_step])
def bench_compaction(compare, device, make, name, sparsity):
    pytest.importorskip("torch_pruning", reason="it finds which channels go together")
    images = torch.randn(BATCH, 3, 32, 32, device=device)
    candidates = {}
    for contestant, model in models(name, sparsity).items():
        for layout, form in LAYOUTS.items():
            placed = copy.deepcopy(model).to(device, memory_format=form)
            candidates[contestant + layout] = make(placed, images.to(memory_format=form))
    compare(
        candidates,
        RATIO,
        op=f"{make.__name__.replace('_', ' ')}, channels removed",
        problem=name,
        sparsity=sparsity,
        device=device,
    )
