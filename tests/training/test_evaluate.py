"""evaluate says what it takes."""

import pytest
import torch
from support.own_data import X, Y, net

import sparselth as sl


def test_evaluate_says_what_it_takes():
    batches = sl.data.batches_of((X, Y), 16, 0, False, torch.device("cpu"), test=(X, Y + 1))
    with pytest.raises(sl.SparselthError, match="labels run to 3, and the model has 3 logits"):
        sl.training.evaluate(net(), batches)
    with pytest.raises(sl.SparselthError, match=r"made by sparselth\.data\.batches_of.*got tuple"):
        sl.training.evaluate(net(), (X, Y))
    with pytest.raises(sl.SparselthError, match="model must be a"):
        sl.training.evaluate(None, batches)
