"""Convolutions whose settings somebody set later, to whatever torch's own layers accept."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.ops import libraries

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "stride, a number": {"stride": 2},
    "padding, a number": {"padding": 1},
    "dilation, a number": {"dilation": 2},
    "all numbers": {"stride": 1, "padding": 2, "dilation": 1},
    "list of one": {"stride": [2]},
    "tuple of one": {"padding": (1,)},
    "numpy": {"stride": np.int64(2)},
    "size": {"padding": torch.Size([1])},
    "same": {"padding": "same"},
    "valid": {"padding": "valid"},
    "same, dilated": {"padding": "same", "dilation": 3},
    "groups": {"groups": 2},
    "circular": {"padding": 1, "padding_mode": "circular"},
}
OF_IMAGES = {
    "lists": {"stride": [2, 1], "padding": [0, 1], "dilation": [1, 2]},
    "numbers of numpy": {"stride": (np.int64(2), np.int64(1))},
}

LAYERS = {
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 9, 9)),
    "conv2d, even": (lambda: nn.Conv2d(4, 6, (4, 3)), (2, 4, 9, 9)),
    "conv2d, same": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same"), (2, 4, 9, 9)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 4), (2, 4, 19)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), (1, 4, 9, 9, 9)),
}

SERVED = {
    "measured": lambda: sl.use_choice("measured"),
    "fixed": lambda: sl.use_choice("fixed"),
    "cpu": lambda: sl.use_backend("cpu"),
}

# With a stride torch refuses "same".
CASES = [
    (layer, setting)
    for layer in LAYERS
    for setting, values in (SETTINGS | (OF_IMAGES if "conv2d" in layer else {})).items()
    if layer != "conv2d, same" or "padding" in values or "stride" not in values
]


def set_all(layer, setting):
    for name, value in (SETTINGS | OF_IMAGES)[setting].items():
        setattr(layer, name, copy.deepcopy(value))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("layer", "setting"), CASES)
def test_settings_are_read_as_torch_reads_them(layer, setting, when):
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    if when == "before":
        set_all(model[0], setting)
    mask = torch.rand_like(model[0].weight) < 0.4
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense[0].weight.mul_(mask)
    sl.sparsify(model, {"0.weight": mask})
    if when == "after":
        with contextlib.suppress(RuntimeError):
            model(torch.randn(shape))  # what was derived before is not taken for it
        set_all(model[0], setting)
        set_all(dense[0], setting)
    # With more groups the same weight takes more channels.
    channels = model[0].weight.shape[1] * model[0].groups
    x = torch.randn(shape[0], channels, *shape[2:])
    want = dense(x)
    want.sum().backward()
    for served in SERVED.values() if libraries.has_kernel("masked_conv2d", "cpu") else ():
        with served():
            model.zero_grad()
            y = model(x)
            torch.testing.assert_close(y, want, atol=1e-4, rtol=1e-4)
            y.sum().backward()
            want_grad = dense[0].weight.grad * mask
            torch.testing.assert_close(model[0].weight.grad, want_grad, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(model(x), want, atol=1e-4, rtol=1e-4)
    sl.profile(model, x)
    torch.testing.assert_close(sl.densify(model)(x), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("setting", ["all numbers", "same", "valid", "lists", "circular"])
def test_a_compiled_program_reads_settings_alike(setting):
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9, exclude=()))
    set_all(model[0], setting)
    dense, x = sl.densify(copy.deepcopy(model)), torch.randn(2, 4, 9, 9)
    torch.compiler.reset()
    program = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(program(x), dense(x), atol=1e-4, rtol=1e-4)
    torch.compiler.reset()


def test_a_same_padding_that_torch_refuses_is_refused():
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9, exclude=()))
    model[0].padding, model[0].stride = "same", 2
    with pytest.raises(sl.SparselthError, match="needs a stride of 1"):
        model(torch.randn(2, 4, 9, 9))


@pytest.mark.parametrize("setting", [*SETTINGS, *OF_IMAGES])
def test_an_entry_reads_its_settings_anew(setting):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
    ).eval()
    sl.sparsify(model, {"3.weight": torch.rand(16, 16, 3, 3) < 0.05})
    assert type(model[0]) is sl.nn.StemConv2d
    x = torch.randn(32, 2, 15, 15)
    model(x)
    set_all(model[0], setting)
    x = torch.randn(32, 2 * model[0].groups, 15, 15)
    dense = sl.densify(copy.deepcopy(model))
    torch.testing.assert_close(model(x), dense(x), atol=1e-4, rtol=1e-4)
