"""Batches and answers that do not go together are named, before the model is updated by them."""

from collections import namedtuple

import pytest
import torch
from support.own_data import RECIPE, Unsized, Wrapped, X, Y, net
from torch.utils.data import DataLoader, TensorDataset

import sparselth as sl

Output = namedtuple("Output", "logits")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda y: {"logits": y}, "returned a dict; training"),
        (Output, "returned a Output; training"),
        (lambda y: y[:, 0], r"returned a Tensor of shape \(16,\)"),
        (lambda y: y[:4], r"returned a Tensor of shape \(4, 3\)"),
    ],
)
def test_outputs_that_are_no_logits_are_named(kind, message):
    model = Wrapped(kind)
    with pytest.raises(sl.SparselthError, match=message):
        sl.train(model, (X, Y), RECIPE)


def test_labels_beyond_the_logits_are_named():
    with pytest.raises(sl.SparselthError, match=r"labels run to 7, and the model has 3 logits"):
        sl.train(net(), (X, Y + 5), RECIPE)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (net(), (X.double(), Y), r"x of data, torch\.float64.*pass x\.to\(torch\.float32\)"),
        (net().half(), (X, Y), r"weights are torch\.float16: pass x\.to\(torch\.float16\), or mod"),
        (net(), (X[:, :5], Y), r"of shape \(16, 5\).*pass what its first layer takes"),
        (net(), (X.to_sparse(), Y), r"x of data is torch\.sparse_coo; pass x\.to_dense\(\)"),
        (net(), (X.to("meta"), Y), "x of data lies on the meta device"),
        (net(), (X, Y.to("meta")), "y of data lies on the meta device"),
        (net(), [(X, Y), (X[0], Y[:6])], "x of batch 2 of data is .*that of the first batch"),
        (net(), [(X, Y), (X, Y + 2)], "batch 2 of data: labels run to 4, and the model has 3"),
        (net(), [(X, Y), {"x": X}], "batch 2 of data: data gave a batch that is a dict"),
        (net(), (X, Y.clone().index_fill_(0, torch.tensor([3]), -7)), "labels run from -7, and"),
        (Wrapped(torch.Tensor.detach), (X, Y), "nothing to train; look for torch.no_grad"),
    ],
)
@pytest.mark.parametrize("step", ["eager", "compile"])
def test_data_that_the_model_cannot_take_is_refused_before_an_update(model, data, message, step):
    before = [parameter.clone() for parameter in model.parameters()]
    recipe = RECIPE.changed({"step": step})
    with pytest.raises(sl.SparselthError, match=message):
        sl.train(model, data, recipe)
    for got, want in zip(model.parameters(), before, strict=True):
        assert torch.equal(got, want)


def test_what_a_loader_gives_late_is_named():
    late = DataLoader(TensorDataset(X, Y.clone().index_fill_(0, torch.tensor([49]), 9)), 16)
    with pytest.raises(sl.SparselthError, match="batch 4 of data: labels run to 9, and the model"):
        sl.train(net(), late, RECIPE)
    with pytest.raises(sl.SparselthError, match="test: labels run to 9, and the model has 3"):
        sl.train(net(), (X, Y), RECIPE, test=late)

    class Ragged(Unsized):
        def __iter__(self):
            yield from [(X, Y), (X[:, :5], Y)]

    with pytest.raises(sl.SparselthError, match=r"shape \(50, 5\).*\(epoch 1, step 2\)"):
        sl.train(net(), Ragged(), RECIPE)
