"""sl.train on what users have: a pair of tensors, a DataLoader, lists of batches."""

import math

import pytest
import torch
from support.own_data import RECIPE, Unsized, Wrapped, X, Y, loader, net

import sparselth as sl
from sparselth.training import CheckpointFolder

DATA = {
    "tensors": lambda: (X, Y),
    "list of two tensors": lambda: [X, Y],
    "int32 labels": lambda: (X, Y.int()),
    "loader": lambda: loader(shuffle=True),
    "list of batches": lambda: list(loader()),
    "no length": lambda: Unsized(),
}


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


def test_labels_that_cross_entropy_passes_over_are_trained_on():
    labels = Y.clone().index_fill_(0, torch.tensor([3]), -100)
    assert len(sl.train(net(), (X, labels), RECIPE)) == 3


def test_an_error_of_the_users_own_stays_what_it_is():
    class Own(RuntimeError):
        pass

    def fail(x):
        raise Own("mine")

    with pytest.raises(Own, match="mine"):
        sl.train(Wrapped(fail), (X, Y), RECIPE)
