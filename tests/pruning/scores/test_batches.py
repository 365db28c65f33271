"""Batches as scores read them: how many examples, which are refused, and no draw of torch's."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import sparselth as sl
from sparselth.pruning.scores.batches import size_of
from sparselth.pruning.scores.gates import GatedLoss

X, Y = torch.randn(12, 3), torch.randint(4, (12,))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("x", "y", "count"),
    [
        (X, Y, 12),
        ({"scale": torch.tensor(2.0), "x": X[:5]}, None, 5),
        ((X[:2], X[:2]), Y, 2),
        (3, Y[:7], 7),
        (None, None, 1),
    ],
)
def test_examples_are_those_of_the_first_tensor(x, y, count):
    assert size_of(x, y) == count


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x["x"] if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x)


@pytest.mark.parametrize("score", ["snip", "taylor", "grasp"])
@pytest.mark.parametrize("form", [lambda x: {"x": x}, lambda x: (x, x)])
def test_batches_of_other_forms_weigh_as_tensors_do(score, form):
    uneven = [(X[:11], Y[:11]), (X[11:], Y[11:])]
    weights = {"net.2.weight": net()[2].weight.detach()}

    def scores(data):
        context = sl.pruning.ScoreContext(Named(), data, cross_entropy)
        return sl.pruning.SCORES[score](weights, context)["net.2.weight"]

    torch.testing.assert_close(scores([(form(x), y) for x, y in uneven]), scores(uneven))


def test_the_loss_with_gates_is_the_mean_over_examples():
    model, uneven = net(), [(X[:11], Y[:11]), (X[11:], Y[11:])]
    found = GatedLoss(model, cross_entropy, uneven, ["2.weight"]).mean({})
    assert found == pytest.approx(float(cross_entropy(model(X), Y).detach()))


@pytest.mark.parametrize(
    "search",
    [
        {"score": "snip"},
        {"score": "snip", "steps": 2},
        {"score": "synflow"},
        {"score": "apoz"},
        {"score": "lasso"},
        {"score": "magnitude", "budget": "flops"},
    ],
)
def test_a_loader_that_shuffles_moves_no_draws_on(search):
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    model = net()
    before = torch.get_rng_state()
    sl.find_masks(model, sparsity=0.5, data=loader, loss=cross_entropy, **search)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("score", "batch", "loss", "says"),
    [
        ("snip", (X, Y.float()), cross_entropy, r"the loss of batch 0 cannot be computed from"),
        ("snip", (X, Y + 10), cross_entropy, r"the loss of batch 0 cannot be computed from"),
        ("lfpc", (X, Y.float()), cross_entropy, r"the loss of batch 0 cannot be computed from"),
        ("snip", (X, Y), nn.CrossEntropyLoss, r"got the class CrossEntropyLoss; pass an instance"),
        ("lfpc", (X, Y, 1), cross_entropy, r"batch 0 of data must be a pair \(x, y\), got tuple"),
        ("lfpc", {"x": X}, cross_entropy, r"batch 0 of data must be a pair \(x, y\), got dict"),
        ("lfpc", None, cross_entropy, r"batch 0 of data must be a pair \(x, y\), got NoneType"),
        ("greedy-forward", X, cross_entropy, r"batch 0 of data must be a pair"),
        ("apoz", (X[:0], Y[:0]), cross_entropy, "batch 0 of data has no examples; leave it out"),
    ],
)
def test_bad_batches_are_one_clear_sentence(score, batch, loss, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            sl.find_masks(net(), score=score, sparsity=0.5, data=[batch], loss=loss)
