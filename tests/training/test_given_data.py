"""sl.train on what users have: a pair of tensors, a DataLoader, lists of batches."""

import math
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparselth as sl
from sparselth.training import CheckpointFolder

RNG = torch.Generator().manual_seed(0)
X, Y = torch.randn(50, 6, generator=RNG), torch.randint(0, 3, (50,), generator=RNG)
RECIPE = sl.Recipe(epochs=3, learning_rate=0.05, batch_size=16)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3))


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=16, **options)


DATA = {
    "tensors": lambda: (X, Y),
    "list of two tensors": lambda: [X, Y],
    "int32 labels": lambda: (X, Y.int()),
    "loader": lambda: loader(shuffle=True),
    "list of batches": lambda: list(loader()),
    "no length": lambda: Unsized(),
}


class Unsized:
    def __iter__(self):
        yield from loader()


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("test", [None, (X, Y), "loader"])
def test_it_trains_and_tests(kind, test):
    model = net()
    masks = sl.find_masks(model, sparsity=0.5, exclude=())
    test = loader() if test == "loader" else test
    history = sl.train(model, DATA[kind](), RECIPE, masks=masks, test=test)
    assert len(history) == 3
    assert history.records[-1].train_loss < history.records[0].train_loss
    model.eval()
    right = 100 * (model(X).argmax(1) == Y).float().mean().item()
    accuracy = history.records[-1].test_accuracy
    assert math.isnan(accuracy) if test is None else accuracy == pytest.approx(right, abs=1e-3)
    assert all(not model.get_parameter(n)[~m].any() for n, m in masks.items())


def test_every_sample_counts_once_in_an_epoch():
    given = {name: sl.train(net(), make(), RECIPE).records[0] for name, make in DATA.items()}
    for record in given.values():
        assert (record.train_accuracy * 50 / 100) % 1 == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("kind", ["tensors", "loader"])
def test_a_run_goes_on_after_an_epoch_to_the_same_weights(kind, tmp_path):
    whole = net()
    sl.train(whole, DATA[kind](), RECIPE)
    torch.manual_seed(99)  # another state than the run began with

    def stop(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sl.train(net(), DATA[kind](), RECIPE, checkpoint=tmp_path, on_epoch_end=stop)
    resumed = net()
    history = sl.train(resumed, DATA[kind](), RECIPE, checkpoint=tmp_path)
    assert len(history) == 3
    for got, want in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(got, want)


def test_tensors_go_on_within_an_epoch(tmp_path):
    sl.train(net(), (X, Y), RECIPE, checkpoint=tmp_path, checkpoint_every=1)
    assert CheckpointFolder(tmp_path).epochs()


def test_tickets_and_fine_tuning_take_them_too():
    recipe = RECIPE.changed({"epochs": 1})
    ticket = sl.find_ticket(net(), (X, Y), recipe, sparsity=0.5, test=(X, Y))
    assert not math.isnan(ticket.histories[0].test_accuracy)
    tuned = sl.prune_and_finetune(net(), loader(), recipe, sparsity=0.5, pretrain=recipe)
    assert math.isnan(tuned.history.test_accuracy)


Output = namedtuple("Output", "logits")


class Wrapped(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = net(), kind

    def forward(self, x):
        return self.kind(self.net(x))


REFUSED = {
    "a data set": (lambda: TensorDataset(X, Y), {}, "data must be an ImageSet"),
    "a text": (lambda: "cifar10", {}, r"data must be .*got str"),
    "a tensor": (lambda: X, {}, r"data must be .*got Tensor"),
    "a dict": (lambda: {"x": X}, {}, r"data must be .*got dict"),
    "none": (lambda: None, {}, r"data must be .*got NoneType"),
    "a generator": (lambda: (b for b in loader()), {}, "gives its batches once"),
    "an iterator": (lambda: iter(loader()), {}, "gives its batches once"),
    "nothing": (list, {}, "holds no batches"),
    "no samples": (lambda: (X[:0], Y[:0]), {}, "holds no samples"),
    "lengths": (lambda: (X, Y[:7]), {}, "differ in length"),
    "images of bytes": (lambda: (X.byte(), Y), {}, r"pass x\.float\(\)"),
    "labels of floats": (lambda: (X, Y.float()), {}, "one class number for each sample"),
    "one-hot labels": (lambda: (X, nn.functional.one_hot(Y)), {}, "one class number"),
    "test data": (lambda: (X, Y), {"test": "cifar10"}, r"test must be .*got str"),
    "steps of a loader": (loader, {"checkpoint_every": 2}, "cannot go on within an epoch"),
    "no steps": (lambda: (X, Y), {"checkpoint_every": 0}, "whole number from 1"),
    "masks": (lambda: (X, Y), {"masks": {"9.weight": X > 0}}, "no convolution or linear weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_before_the_first_step(name, tmp_path):
    make, options, message = REFUSED[name]
    if "checkpoint_every" in options:
        options = {**options, "checkpoint": tmp_path}
    model = net()
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=message):
            sl.train(model, make(), RECIPE, **options)
        for got, want in zip(model.parameters(), net().parameters(), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([{"x": X, "y": Y}], "a batch that is a dict"),
        ([(X, Y, Y)], "tuple of Tensor, Tensor, Tensor"),
        ([(X, [1, 2])], "tuple of Tensor, list"),
        ([(X, Y.float())], "one class number"),
    ],
)
def test_bad_batches_are_named(batches, message):
    with pytest.raises(sl.SparselthError, match=message):
        sl.train(net(), batches, RECIPE)


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
    ("options", "message"),
    [
        ({"score": "magnitud"}, "did you mean 'magnitude'"),
        ({"allocation": "even"}, "unknown allocation"),
        ({"pattern": "2:4", "sparsity": 0.9}, "fixes the sparsity"),
        ({"exclude": ["9.weight"]}, "exclude names"),
        ({"sparsity": 90}, "90 % is 0.9"),
        ({"sparsity": "0.9"}, "pass a number"),
        ({"allocation": "global", "sparsity": 0.9999}, "layers that need one each"),
        ({"pattern": "kernel_shape"}, "no weight has kernels of 9 taps"),
    ],
)
@pytest.mark.parametrize("how", ["ticket", "fine-tuning"])
def test_a_search_that_cannot_end_well_is_refused_before_it_begins(how, options, message):
    def never(*args, **kwargs):
        raise AssertionError("trained")

    model = net()
    model.register_forward_hook(never)
    options = {"sparsity": 0.5, "exclude": (), **options}
    search = sl.find_ticket
    if how == "fine-tuning":
        search, options = sl.prune_and_finetune, {**options, "pretrain": RECIPE}
    with pytest.raises(sl.SparselthError, match=message):
        search(model, (X, Y), RECIPE, **options)
