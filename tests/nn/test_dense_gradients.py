"""Gradients by pruned weights too, of every kind of masked layer."""

import copy
import gc

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.nn import DenseGradients

CASES = {
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), (3, 4, 6, 6)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (3, 4, 6, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (3, 4, 9)),
    "linear": (lambda: nn.Linear(5, 7), (3, 2, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (3, 4, 6, 6)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("passes", [1, 3])
def test_they_are_those_of_the_dense_layer(case, passes):
    make, shape = CASES[case]
    torch.manual_seed(0)
    model = nn.Sequential(make()).double()
    sl.sparsify(model, {"0.weight": torch.rand(model[0].weight.shape) < 0.4})
    plain = sl.densify(copy.deepcopy(model))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(passes)]
    model(inputs[0])  # a path that is known must not be taken
    gradients = DenseGradients(model)
    gradients.start()
    for x in inputs:
        model(x).square().sum().backward()
    found = gradients.stop()["0.weight"]
    through = [x.grad.clone() for x in inputs]
    for x in inputs:
        x.grad = None
        plain(x).square().sum().backward()
    torch.testing.assert_close(found, plain[0].weight.grad)
    for x, grad in zip(inputs, through, strict=True):
        torch.testing.assert_close(grad, x.grad)
    mask = sl.masks_of(model)["0.weight"]
    masked = model[0]._parameters["weight"].grad
    torch.testing.assert_close(masked, plain[0].weight.grad * mask)
    assert not masked[~mask].any()


class Tied(nn.Module):
    """A weight that an embedding and a linear layer share."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 5), nn.Linear(5, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Twice(nn.Module):
    """A weight that two linear layers share, one of which is called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(self.first(x)))


@pytest.mark.parametrize(
    ("model", "name", "x"),
    [
        (Tied(), "embedding.weight", torch.tensor([0, 3, 3, 5])),
        (Twice(), "first.weight", torch.randn(4, 6).double()),
    ],
)
def test_shared_weights_are_counted_once_for_each_use(model, name, x):
    model = model.double()
    sl.sparsify(model, {name: torch.rand(model.get_parameter(name).shape) < 0.5})
    plain = sl.densify(copy.deepcopy(model))
    gradients = DenseGradients(model)
    model.float().double()  # moves the parameters
    gradients.start()
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(
        gradients.stop()[name], plain.get_parameter(name).grad, rtol=1e-4, atol=1e-4
    )


def test_stopped_the_kernels_serve_again():
    model = nn.Sequential(nn.Linear(8, 8))
    sl.sparsify(model, {"0.weight": torch.rand(8, 8) < 0.3})
    gradients = DenseGradients(model)
    gradients.start()
    gradients.stop()
    model(torch.randn(2, 8)).sum().backward()
    assert gradients.states["0.weight"].collector is None


def test_dropped_while_it_collects_it_leaves_nothing():
    model = nn.Sequential(nn.Linear(4, 4))
    sl.sparsify(model, {"0.weight": torch.rand(4, 4) < 0.5})
    gradients = DenseGradients(model)
    gradients.start()
    assert model[0]._forward_hooks
    del gradients
    gc.collect()
    assert not model[0]._forward_hooks


def test_none_are_zero():
    model = nn.Sequential(nn.Linear(4, 4))
    sl.sparsify(model, {"0.weight": torch.rand(4, 4) < 0.5})
    gradients = DenseGradients(model)
    gradients.start()
    assert not gradients.stop()["0.weight"].any()


def test_bad_use():
    with pytest.raises(sl.SparselthError, match="no mask; call sparselth"):
        DenseGradients(nn.Linear(3, 3))
    model = nn.Sequential(nn.Linear(4, 4))
    sl.sparsify(model, {"0.weight": torch.rand(4, 4) < 0.5})
    gradients = DenseGradients(model)
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match="start that first"):
            gradients.stop()
    gradients.start()
    with pytest.raises(sl.SparselthError, match="stop that first"):
        gradients.start()
