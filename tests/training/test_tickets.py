"""Tickets and fine-tuning in one call: the masks, the weights they start from, and resuming."""

import pytest
import torch

import sparselth as sl
from sparselth import SparselthError
from sparselth.training import Callback, Recipe, train


@pytest.fixture
def short():
    return Recipe(epochs=3, learning_rate=0.1, batch_size=32)


def _weights(model):
    return {k: v.clone() for k, v in model.state_dict().items() if not k.endswith("_mask")}


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Stops(Callback):
    def __init__(self, after):
        self.left = after

    def epoch_end(self, model, history):
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


def test_a_ticket_is_the_mask_of_the_trained_network_on_the_initial_weights(
    make_model, digits, short
):
    model = make_model()
    before = _weights(model)
    ticket = sl.find_ticket(model, digits, short, 0.8)
    by_hand = make_model()
    train(by_hand, digits, short)
    assert _same(ticket.trained, _weights(by_hand))
    assert _same(ticket.masks, sl.find_masks(by_hand, sparsity=0.8))
    assert _same(ticket.start, before)
    for name, mask in ticket.masks.items():
        assert torch.equal(model.get_parameter(name), before[name] * mask)
    assert sl.sparsity(model) == pytest.approx(0.8, abs=0.01)
    train(model, digits, short)  # the ticket itself
    for name, mask in ticket.masks.items():
        assert not model.get_parameter(name)[~mask].any()


def test_rounds_prune_the_same_share_of_what_is_left(make_model, digits, short):
    model = make_model()
    ticket = sl.find_ticket(model, digits, short, 0.75, rounds=2)
    assert len(ticket.histories) == 2
    by_hand = make_model()
    train(by_hand, digits, short)
    half = sl.find_masks(by_hand, sparsity=0.5)
    by_hand = make_model()
    train(by_hand, digits, short, masks=half)
    assert _same(ticket.masks, sl.find_masks(by_hand, sparsity=0.75))
    assert all((half[name] | ~mask).all() for name, mask in ticket.masks.items())


@pytest.mark.parametrize("rewind_to", [1, 2])
def test_a_ticket_may_start_from_an_epoch(make_model, digits, short, rewind_to):
    class Copies(Callback):
        at = None

        def epoch_end(self, model, history):
            if len(history) == rewind_to:
                self.at = _weights(model)

    copies = Copies()
    ticket = sl.find_ticket(make_model(), digits, short, 0.8, rewind_to=rewind_to,
                            callbacks=[copies])  # fmt: skip
    assert _same(ticket.start, copies.at)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("rewind_to", [0, 1])
def test_a_search_goes_on_where_it_was(tmp_path, make_model, digits, short, stop, rewind_to):
    options = {"rounds": 2, "rewind_to": rewind_to}
    whole = sl.find_ticket(make_model(), digits, short, 0.8, **options)
    with pytest.raises(InterruptedError):
        sl.find_ticket(make_model(), digits, short, 0.8, **options, checkpoint=tmp_path,
                       callbacks=[Stops(stop)])  # fmt: skip
    # Another initialization, as a program without a seed would draw it.
    again = sl.find_ticket(make_model(seed=9), digits, short, 0.8, **options, checkpoint=tmp_path)
    assert _same(whole.masks, again.masks)
    assert _same(whole.start, again.start)
    assert _same(whole.trained, again.trained)


def test_pruning_and_fine_tuning(tmp_path, make_model, digits, short):
    model = make_model()
    found = sl.prune_and_finetune(model, digits, short, 0.8, pretrain=short, checkpoint=tmp_path)
    by_hand = make_model()
    train(by_hand, digits, short)
    masks = sl.find_masks(by_hand, sparsity=0.8)
    train(by_hand, digits, short, masks=masks)
    assert _same(found.masks, masks)
    assert _same(_weights(model), _weights(by_hand))
    assert len(found.pretraining) == len(found.history) == 3
    again = make_model(seed=4)
    sl.prune_and_finetune(again, digits, short, 0.8, pretrain=short, checkpoint=tmp_path)
    assert _same(_weights(model), _weights(again))


def test_a_network_that_comes_trained_is_pruned_as_it_is(make_model, digits, short):
    model = make_model()
    masks = sl.find_masks(model, sparsity=0.8)
    found = sl.prune_and_finetune(model, digits, short, 0.8)
    assert _same(found.masks, masks)
    assert found.pretraining is None


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rewind_to": 3}, {"rewind_to": -1}])
def test_what_no_ticket_can_be(make_model, digits, short, options):
    with pytest.raises(SparselthError, match="must be a whole number"):
        sl.find_ticket(make_model(), digits, short, 0.8, **options)
