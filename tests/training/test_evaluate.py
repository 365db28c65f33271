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


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_model_is_evaluated_in_the_precision_that_it_is_trained_in(precision, dtype):
    model, seen = net(), []
    model.register_forward_hook(lambda module, _, y: seen.append((module.training, y.dtype)))
    recipe = sl.Recipe(epochs=1, batch_size=32, precision=precision)
    sl.train(model, (X, Y), recipe, test=(X, Y))
    assert {training for training, _ in seen} == {True, False}
    assert {logits for _, logits in seen} == {dtype}
    with torch.no_grad():
        assert model(X[:2]).dtype == torch.float32  # what the caller does is the caller's
