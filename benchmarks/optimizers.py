"""Steps of sparselth's optimizers beside torch's, with the masks multiplied back in afterwards."""

from __future__ import annotations

from typing import Any

import torch
from ratios import Ratio

import sparselth as sl
from sparselth.models import build

NETWORKS = ("resnet20", "vgg11")
SPARSITY = 0.9


def compare_steps(compare, device, network: str, optimizer: str, op: str, **options: Any) -> None:
    """Measure a step of `sl.optim.<optimizer>` and of torch's, on gradients that stay."""
    model = build(network, num_classes=10, in_channels=3).to(device)
    masks = sl.find_masks(model, sparsity=SPARSITY)
    dense = build(network, num_classes=10, in_channels=3).to(device)
    sl.sparsify(model, masks)
    for net in (model, dense):
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
    ours = getattr(sl.optim, optimizer)(model.parameters(), **options)
    theirs = getattr(torch.optim, optimizer)(dense.parameters(), **options, foreach=True)
    masked = [(dense.get_parameter(key), mask.float()) for key, mask in masks.items()]

    def torch_step():
        theirs.step()
        with torch.no_grad():
            torch._foreach_mul_([p for p, _ in masked], [m for _, m in masked])

    baseline = f"torch {optimizer} + masks"
    compare(
        {op: ours.step, baseline: torch_step},
        Ratio(f"torch {optimizer}, masks multiplied in", (baseline,), ours=(op,)),
        op=op,
        device=device,
        problem=network,
        sparsity=SPARSITY,
    )
