"""What a changed mask costs: building the plans of a whole model, against one training step."""

from __future__ import annotations

import pytest

import sparselth as sl
from sparselth.bench.layers import SPARSITIES
from sparselth.bench.ratios import Ratio
from sparselth.bench.step import CONTESTANTS, MODELS
from sparselth.models import build
from sparselth.nn.masked import ChoosingModule


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", MODELS)
def bench_plan(compare, name, sparsity):
    model = build(name, num_classes=10, in_channels=3)
    sl.sparsify(model, sl.find_masks(model, sparsity=sparsity))
    layers = [m for m in model.modules() if isinstance(m, ChoosingModule)]

    def refresh() -> None:
        for layer in layers:
            layer.set_mask(layer.masks()["weight"])
            assert layer.service.plan is not None  # made when it is asked for

    compare(
        {"plans": refresh, "step": CONTESTANTS["sparse"](name, sparsity)},
        Ratio("a sparse training step", ("step",), ours=("plans",)),
        op="all masks of a model changed: weights zeroed, plans rebuilt",
        problem=name,
        sparsity=sparsity,
    )
