"""The timing of sparse against dense training takes the steps that training takes."""

import pytest
import torch

from sparselth import data, models
from sparselth.pruning import find_masks
from sparselth.study.execution.timing import WARM_UP_STEPS, measure


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_contestant_takes_the_step_of_the_study(tiny, precision):
    config = tiny.changed({"precision": precision, "timing_steps": 2, "timing_rounds": 2})
    model = models.build("conv4", 10, 1, width=0.125)
    masks = find_masks(model, sparsity=0.9)
    under_autocast = []
    # Copies of a model keep its hooks.
    model.register_forward_pre_hook(
        lambda *_: under_autocast.append(torch.is_autocast_enabled("cpu"))
    )
    digits = data.load("mnist5k").limited(train=48, test=16)
    row = measure(config, model, masks, digits, 0.9)
    assert under_autocast == [precision == "bf16"] * 3 * (WARM_UP_STEPS + 2 * 2)
    assert row["steps_per_epoch"] == 3
    ratio = row["dense_masked_seconds"] / row["sparse_seconds"]
    assert row["speedup_over_dense_masked"] == pytest.approx(ratio)
    assert 0 < row["sparse_seconds_min"] <= row["sparse_seconds"]


def test_no_contestant_changes_the_model(tiny):
    model = models.build("conv4", 10, 1, width=0.125)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = find_masks(model, sparsity=0.9)
    digits = data.load("mnist5k").limited(train=48, test=16)
    measure(tiny, model, masks, digits, 0.9)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
