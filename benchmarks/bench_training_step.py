"""One whole training step, sparse against the same step done densely with masks. Batch 128, fp32.

Dense: the same modules under `use_backend("reference")`, in the better memory format.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sparselth as sl
from sparselth.models import build


@pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def bench_training_step(compare, name, sparsity):
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))

    def step(backend: str | None, layout: torch.memory_format):
        model = build(name, num_classes=10, in_channels=3).to(memory_format=layout)
        sl.sparsify(model, sl.find_masks(model, sparsity=sparsity))
        optimizer = sl.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        images = x.contiguous(memory_format=layout)

        def run():
            optimizer.zero_grad()
            F.cross_entropy(model(images), y).backward()
            optimizer.step()

        def forced():
            with sl.use_backend(backend):
                run()

        return forced if backend else run

    compare(
        {
            "sparse": step(None, torch.contiguous_format),
            "dense": step("reference", torch.contiguous_format),
            "dense channels_last": step("reference", torch.channels_last),
        },
        baselines=("dense", "dense channels_last"),
        op="training step",
        problem=name,
        sparsity=sparsity,
    )
