"""Layers whose weights are too large for a plan's indices: dense, whoever asks for kernels."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.ops import libraries

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def compiler_reset():
    """What is compiled here counts towards the limit of recompilations, also of other tests."""
    yield
    torch.compiler.reset()


LAYERS = {
    "inputs": (lambda: nn.Linear(1 << 19, 2), (3, 1 << 19)),
    "outputs": (lambda: nn.Linear(2, 1 << 19), (3, 2)),
    "taps in a row": (lambda: nn.Conv1d(1, 2, 4096), (1, 1, 4100)),
    "taps": (lambda: nn.Conv2d(1, 2, 64), (1, 1, 66, 66)),
    "channels of all groups": (lambda: nn.Conv2d(1 << 19, 8, 1, groups=8), (1, 1 << 19, 1, 1)),
}

SERVED = {
    "measured": lambda: sl.use_choice("measured"),
    "fixed": lambda: sl.use_choice("fixed"),
    "reference": lambda: sl.use_backend("reference"),
    "cpu": lambda: sl.use_backend("cpu"),
}


@pytest.mark.parametrize("served", SERVED)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_too_large_for_a_plan_is_computed_densely(layer, served):
    if served == "cpu" and not libraries.has_kernel("masked_linear", "cpu"):
        pytest.skip("_C is not there")
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    model, x = nn.Sequential(make()), torch.randn(shape)
    masks = sl.find_masks(model, sparsity=0.9, exclude=())
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense[0].weight.mul_(masks["0.weight"])
    with SERVED[served]():
        sl.sparsify(model, masks)
        assert not model[0].choice(x).sparse
        for program in (model, torch.compile(model, backend="aot_eager")):
            torch.testing.assert_close(program(x), dense(x))
        model(x).sum().backward()
        (row,) = sl.profile(model, x).rows
        assert row.timings is None
    dense(x).sum().backward()
    want = dense[0].weight.grad * masks["0.weight"]
    torch.testing.assert_close(model[0].weight.grad, want)


def test_an_entry_too_wide_for_a_plan_stays_as_it_is():
    model = nn.Sequential(
        nn.Conv2d(1, 1 << 19, 1), nn.BatchNorm2d(1 << 19), nn.Conv2d(1 << 19, 1, 1), nn.Flatten()
    )
    small = nn.Sequential(nn.Conv2d(4, 4, 3), model)
    sl.sparsify(small, {"0.weight": torch.rand(4, 4, 3, 3) < 0.1})
    assert type(model[0]) is nn.Conv2d
