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


def collected(model, x, name):
    """Return a weight's collected gradient, and that of the same model without masks."""
    plain = sl.densify(copy.deepcopy(model))
    gradients = DenseGradients(model)
    gradients.start()
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    return gradients.stop()[name], plain.get_parameter(name).grad


class Read(nn.Module):
    """A weight that another module computes with, besides its layer or instead of it."""

    def __init__(self, besides, kind=nn.Linear):
        super().__init__()
        self.layer, self.besides = kind(6, 6), besides

    def forward(self, x):
        given = nn.functional.linear(x, self.layer.weight)
        if not self.besides:
            return given
        return given + self.layer(x if isinstance(self.layer, nn.Linear) else torch.tensor([1]))


@pytest.mark.parametrize("besides", [False, True])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Embedding])
def test_a_weight_that_another_module_reads_has_the_gradients_of_all_uses(besides, kind):
    torch.manual_seed(0)
    model = Read(besides, kind)
    sl.sparsify(model, {"layer.weight": torch.rand(6, 6) < 0.5})
    torch.testing.assert_close(*collected(model, torch.randn(4, 6), "layer.weight"))


def test_the_output_projection_of_attention_is_one():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    names = ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight"]
    sl.sparsify(model, {n: torch.rand(model.get_parameter(n).shape) < 0.5 for n in names})
    for name in names:
        found, dense = collected(model, torch.randn(4, 5, 8).double(), name)
        torch.testing.assert_close(found, dense)


class Written(nn.Module):
    """What a layer gives is written to."""

    def __init__(self, layer, relu):
        super().__init__()
        self.layer, self.relu = layer, relu

    def forward(self, x):
        h = self.layer(input=x)
        h *= 2
        h += 1
        return self.relu(h)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv2d(4, 8, 3), (8, 4, 6, 6)),
        (lambda: nn.Conv2d(4, 8, 3), (4, 6, 6)),
        (lambda: nn.Conv1d(4, 8, 3), (8, 4, 9)),
        (lambda: nn.Linear(6, 8), (4, 6)),
        (lambda: nn.Linear(6, 8), (2, 3, 6)),
    ],
)
@pytest.mark.parametrize("choice", ["fixed", "measured"])
@pytest.mark.parametrize("kept", [0.1, 0.6])
def test_what_a_layer_gives_may_be_written_to(make, shape, choice, kept):
    torch.manual_seed(0)
    model = Written(make(), nn.ReLU(inplace=True))
    sl.sparsify(model, {"layer.weight": torch.rand(model.layer.weight.shape) < kept})
    with sl.use_choice(choice):
        for _ in range(2):
            found, dense = collected(model, torch.randn(shape), "layer.weight")
            torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-4)


def test_what_a_hook_of_others_returns_has_its_own_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6))
    sl.sparsify(model, {"0.weight": torch.rand(6, 6) < 0.5})
    model[0].register_forward_hook(lambda layer, args, out: 3 * out)
    torch.testing.assert_close(*collected(model, torch.randn(4, 6), "0.weight"))


def test_a_copy_collects_nothing_for_the_model_it_was_made_of():
    model = nn.Sequential(nn.Linear(4, 4))
    sl.sparsify(model, {"0.weight": torch.rand(4, 4) < 0.5})
    gradients = DenseGradients(model)
    gradients.start()
    copy.deepcopy(model)(torch.randn(2, 4)).sum().backward()
    assert not gradients.stop()["0.weight"].any()


def test_a_frozen_weight_has_none():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    sl.sparsify(model, {f"{i}.weight": torch.rand(4, 4) < 0.5 for i in range(2)})
    model[1].weight.requires_grad_(False)
    gradients = DenseGradients(model)
    gradients.start()
    model(torch.randn(2, 4)).sum().backward()
    assert {name: bool(g.any()) for name, g in gradients.stop().items()} == {
        "0.weight": True,
        "1.weight": False,
    }


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
