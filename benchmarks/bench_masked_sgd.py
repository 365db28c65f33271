"""sl.optim.SGD against torch's SGD followed by multiplying the masks back in, at 90 % sparsity."""

from __future__ import annotations

import pytest
import torch
from ratios import Ratio

import sparselth as sl
from sparselth.models import build


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def bench_masked_sgd(compare, device, name):
    model = build(name, num_classes=10, in_channels=3).to(device)
    masks = sl.find_masks(model, sparsity=0.9)
    dense = build(name, num_classes=10, in_channels=3).to(device)
    sl.sparsify(model, masks)
    for net in (model, dense):
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
    options = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
    ours = sl.optim.SGD(model.parameters(), **options)
    theirs = torch.optim.SGD(dense.parameters(), **options, foreach=True)
    masked = [(dense.get_parameter(key), mask.float()) for key, mask in masks.items()]

    def torch_step():
        theirs.step()
        with torch.no_grad():
            torch._foreach_mul_([p for p, _ in masked], [m for _, m in masked])

    compare(
        {"masked_sgd_": ours.step, "torch SGD + masks": torch_step},
        Ratio("torch SGD, masks multiplied in", ("torch SGD + masks",), ours=("masked_sgd_",)),
        op="masked_sgd_",
        device=device,
        problem=name,
        sparsity=0.9,
    )
