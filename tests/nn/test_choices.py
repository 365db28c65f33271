"""Choices handed from one model to another."""

import pickle

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.nn import adopt_choices, measured_choices


def _model():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    convolutions += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16 * 64, 10))
    return sl.sparsify(model, sl.find_masks(model, sparsity=0.9, exclude=["0.weight"]))


def test_what_one_model_measured_another_does_not_measure_again():
    one, other = _model(), _model()
    x = torch.randn(16, 3, 8, 8)
    with sl.use_choice("measured"):
        one(x)
        found = measured_choices(one)
        assert found.keys() == {"0", "3", "6"}
        assert all(len(choices) == 1 for choices in found.values())
        adopt_choices(other, pickle.loads(pickle.dumps(found)))
        other(x)
    assert measured_choices(other) == found  # with the same times


def test_other_kinds_of_input_keep_their_choices():
    one, other = _model(), _model()
    with sl.use_choice("measured"):
        one(torch.randn(16, 3, 8, 8))
        with torch.no_grad():
            other(torch.randn(16, 3, 8, 8))  # without gradients: another kind
        before = measured_choices(other)
        adopt_choices(other, measured_choices(one))
    assert all(len(choices) == 2 for choices in measured_choices(other).values())
    for name, choices in before.items():
        assert choices.items() <= measured_choices(other)[name].items()


def test_choices_of_other_layers_are_refused():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(sl.SparselthError, match="there are choices of 'other', where the model"):
        sl.nn.adopt_choices(model, {"other": {}})
