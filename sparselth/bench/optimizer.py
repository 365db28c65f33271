"""Steps of sparselth's optimizers and of torch's with the masks multiplied back in afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import optim
from ..models import build
from ..nn import sparsify
from ..pruning import find_masks
from .ratios import Ratio

NETWORKS = ("resnet20", "vgg11")
SPARSITY = 0.9

# Optimizer -> the op that its steps are, and its options.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("masked_sgd_", {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}),
    "AdamW": ("masked_adamw_", {"lr": 1e-4, "weight_decay": 1e-2}),
}


def ratio_of(optimizer: str) -> Ratio:
    """Return what a step is compared by."""
    over, op = f"torch {optimizer}, masks multiplied in", OPTIMIZERS[optimizer][0]
    return Ratio(over, (f"torch {optimizer} + masks",), ours=(op,))


def candidates(
    network: str, optimizer: str, sparsity: float, device: str
) -> dict[str, Callable[[], object]]:
    """Return a step of `sl.optim.<optimizer>` and of torch's, on gradients that stay."""
    op, options = OPTIMIZERS[optimizer]
    model = build(network, num_classes=10, in_channels=3).to(device)
    masks = find_masks(model, sparsity=sparsity)
    dense = build(network, num_classes=10, in_channels=3).to(device)
    sparsify(model, masks)
    for net in (model, dense):
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
    ours = getattr(optim, optimizer)(model.parameters(), **options)
    theirs = getattr(torch.optim, optimizer)(dense.parameters(), **options, foreach=True)
    masked = [(dense.get_parameter(key), mask.float()) for key, mask in masks.items()]

    def torch_step() -> None:
        theirs.step()
        with torch.no_grad():
            torch._foreach_mul_([p for p, _ in masked], [m for _, m in masked])

    return {op: ours.step, f"torch {optimizer} + masks": torch_step}
