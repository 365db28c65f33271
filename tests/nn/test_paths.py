"""The short way through a layer: taken while nothing changed, and gone where something did."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sparselth as sl

LAYERS = {
    "convolution": (lambda: nn.Conv2d(4, 8, 3), (2, 4, 6, 6)),
    "convolution of one dimension": (lambda: nn.Conv1d(4, 8, 3), (2, 4, 6)),
    "linear": (lambda: nn.Linear(4, 8), (3, 4)),
}


def warm(name, density=0.2):
    """Return a masked layer that has seen an input of this kind before, and another input."""
    make, shape = LAYERS[name]
    layer = make()
    sl.sparsify(layer, {"weight": torch.rand(layer.weight.shape) < density})
    layer(torch.randn(shape))
    return layer, torch.randn(shape)


def dense(layer):
    """Return the plain layer of the same kept weights."""
    return sl.densify(copy.deepcopy(layer))


@pytest.mark.parametrize("choice", ["fixed", "measured"])
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_what_changed_since_counts(name, density, choice):
    with sl.use_choice(choice):
        layer, x = warm(name, density)
        layer.weight.data.uniform_(-1, 1)
        torch.testing.assert_close(layer(x), dense(layer)(x))
        layer.weight_mask = torch.rand(layer.weight.shape) < 0.5
        torch.testing.assert_close(layer(x), dense(layer)(x))
        layer.bias = nn.Parameter(torch.randn(8))
        torch.testing.assert_close(layer(x), dense(layer)(x))
        layer.bias = None
        torch.testing.assert_close(layer(x), dense(layer)(x))
        if "convolution" in name:
            layer.padding = 1
            torch.testing.assert_close(layer(x), dense(layer)(x))


@pytest.mark.parametrize("choice", ["fixed", "measured"])
@pytest.mark.parametrize("name", LAYERS)
def test_bad_input_after_a_warm_call_is_refused_twice(name, choice):
    with sl.use_choice(choice):
        layer, x = warm(name)
        for wrong in (x.double(), x[:, :3] if "conv" in name else x[..., :3]):
            for _ in range(2):
                with pytest.raises((sl.SparselthError, RuntimeError)):
                    layer(wrong)
        layer.bias = nn.Parameter(torch.randn(5))
        for _ in range(2):
            with pytest.raises((sl.SparselthError, RuntimeError)):
                layer(x)


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_is_left_on_a_plain_layer_or_in_a_file(name):
    layer, _ = warm(name)
    plain = LAYERS[name][0]()
    assert "_paths" not in pickle.loads(pickle.dumps(layer)).__dict__
    assert "_paths" not in copy.deepcopy(layer).__dict__
    sl.densify(layer)
    assert layer.__dict__.keys() == plain.__dict__.keys()
    assert b"sparselth" not in pickle.dumps(layer)


def test_choices_of_another_process_are_followed_after_a_warm_call():
    x = torch.randn(2, 4, 6, 6)
    with sl.use_choice("measured"):
        layer, _ = warm("convolution")
        theirs = sl.nn.measured_choices(layer)
        for kinds in theirs.values():
            for kind, choice in kinds.items():
                kinds[kind] = type(choice)(not choice.sparse, "measured", timings=choice.timings)
        sl.nn.adopt_choices(layer, theirs)
        adopted = {choice.sparse for kinds in theirs.values() for choice in kinds.values()}
        layer(x)
        assert {path.choice.sparse for path in layer.__dict__["_paths"].values()} <= adopted
