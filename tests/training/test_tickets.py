"""Tickets and fine-tuning in one call: the masks, the weights they start from, and resuming."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import sparselth as sl
from sparselth import SparselthError
from sparselth.training import Callback, Recipe, train
from sparselth.training.rounds import search_of


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


def test_rounds_may_replay_the_rest_of_the_schedule(make_model, digits, short):
    model = make_model()
    options = {"rounds": 2, "rewind_to": 1, "replay": "rest"}
    ticket = sl.find_ticket(model, digits, short, 0.75, **options)
    assert [len(history) for history in ticket.histories] == [3, 2]
    rates = [record.learning_rate for record in ticket.histories[1].records]
    assert rates == [short.learning_rate_at(1), short.learning_rate_at(2)]
    by_hand = make_model()
    train(by_hand, digits, short)
    masks = sl.find_masks(by_hand, sparsity=0.5)
    rewound = make_model()
    rewound.load_state_dict(ticket.start)
    train(rewound, digits, short.after(1), masks=masks)
    last = sl.find_masks(rewound, sparsity=0.75, within=masks)
    assert _same(ticket.masks, last)


def test_rounds_may_follow_another_schedule(make_model, digits, short):
    ticket = sl.find_ticket(make_model(), digits, short, 0.75, rounds=2, schedule="cubic")
    by_hand = make_model()
    train(by_hand, digits, short)
    first = sl.find_masks(by_hand, sparsity=0.75 * (1 - 0.5**3))
    assert all((first[name] | ~mask).all() for name, mask in ticket.masks.items())
    assert sl.sparsity(ticket.masks) == pytest.approx(0.75, abs=0.01)


def test_scores_that_look_at_the_initialization_see_it(make_model, digits, short, tmp_path):
    model = make_model()
    start = _weights(model)
    ticket = sl.find_ticket(model, digits, short, 0.8, score="movement", rewind_to=1)
    by_hand = make_model()
    train(by_hand, digits, short)
    assert _same(
        ticket.masks, sl.find_masks(by_hand, score="movement", sparsity=0.8, initial=start)
    )
    # A search that was stopped after epoch k goes on from the initialization it began with.
    options = {"score": "movement", "rewind_to": 1, "checkpoint": tmp_path}
    with pytest.raises(InterruptedError):
        sl.find_ticket(make_model(), digits, short, 0.8, callbacks=[Stops(2)], **options)
    again = sl.find_ticket(make_model(seed=7), digits, short, 0.8, **options)
    assert _same(again.masks, ticket.masks)


@pytest.mark.parametrize("score", ["dropnet", "snip"])
def test_scores_that_see_data_see_some_of_it(make_model, digits, short, score):
    """DropNet's loop: train, prune what gives least, put the weights back."""
    model = make_model()
    start = _weights(model)
    ticket = sl.find_ticket(model, digits, short, 0.5, rounds=2, score=score)
    assert _same(ticket.start, start)
    by_hand = make_model()
    train(by_hand, digits, short)
    source = sl.data.batches_of(digits, 32, short.seed, False, torch.device("cpu"))
    options = {"score": score, "data": list(source.train(0))[:4], "loss": cross_entropy}
    half = sl.find_masks(by_hand, sparsity=1 - 0.5**0.5, **options)
    again = make_model()
    train(again, digits, short, masks=half)
    masks = sl.find_masks(again, sparsity=0.5, within=half, **options)
    assert _same(ticket.masks, masks)


def test_fine_tuning_in_rounds_never_puts_weights_back(make_model, digits, short, tmp_path):
    model = make_model()
    found = sl.prune_and_finetune(
        model, digits, short, 0.75, pretrain=short, rounds=2, checkpoint=tmp_path
    )
    assert len(found.histories) == 2
    assert found.history is found.histories[-1]
    by_hand = make_model()
    train(by_hand, digits, short)
    half = sl.find_masks(by_hand, sparsity=0.5)
    train(by_hand, digits, short, masks=half)
    masks = sl.find_masks(by_hand, sparsity=0.75, within=half)
    train(by_hand, digits, short, masks=masks)
    assert _same(found.masks, masks)
    assert _same(_weights(model), _weights(by_hand))
    again = make_model(seed=4)
    sl.prune_and_finetune(again, digits, short, 0.75, pretrain=short, rounds=2, checkpoint=tmp_path)
    assert _same(_weights(model), _weights(again))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"replay": "again"}, "unknown replay 'again'"),
        ({"schedule": "squared"}, "unknown schedule 'squared'"),
    ],
)
def test_what_is_no_way_to_prune_in_rounds(make_model, digits, short, options, says):
    for _ in range(2):
        with pytest.raises(SparselthError, match=says):
            sl.find_ticket(make_model(), digits, short, 0.8, **options)


def test_batches_for_a_score_move_no_random_numbers_on():
    x, y = torch.randn(32, 4), torch.randint(3, (32,))
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    before = torch.get_rng_state()
    recipe = sl.Recipe(epochs=1, batch_size=8)
    search = search_of("snip", "uniform", None, None, loader, recipe, torch.device("cpu"))
    assert len(search["data"]) == 4
    assert torch.equal(torch.get_rng_state(), before)
