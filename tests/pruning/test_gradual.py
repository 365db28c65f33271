"""Gradual pruning in a user's loop: when it prunes, how much, and that nothing comes back."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.pruning import GradualPruning


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(160, 20), nn.ReLU(), nn.Linear(20, 4)),
    )


def trained(model, pruning, steps, optimizer=None, first=0):
    """Train, and return for each step whether it pruned and what share is pruned after it."""
    if optimizer is None:
        optimizer = sl.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    told = []
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 3, 8, 8, generator=draw), torch.randint(4, (8,), generator=draw)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        told.append((pruning.step(), sl.sparsity(model)))
    return told


def test_it_prunes_when_it_is_due_and_as_much_as_the_schedule_says():
    model = net()
    pruning = GradualPruning(model, 0.9, begin=2, end=11, every=3)
    assert sl.sparsity(model) == 0
    before = sl.masks_of(model)
    told = trained(model, pruning, 14)
    assert [i + 1 for i, (due, _) in enumerate(told) if due] == [5, 8, 11]
    shares = [0.9 * (1 - (1 - part) ** 3) for part in (3 / 9, 6 / 9, 1)]
    sizes = {name: mask.numel() for name, mask in before.items()}
    for step, share in zip((5, 8, 11), shares, strict=True):
        left = sum(size - round(size * share) for size in sizes.values())
        assert told[step - 1][1] == pytest.approx(1 - left / sum(sizes.values()))
    assert told[-1][1] == told[10][1]


def test_nothing_comes_back_and_pruned_weights_and_momentum_are_zero():
    model = net()
    optimizer = sl.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruning = GradualPruning(model, 0.8, end=6, every=2, schedule="linear")
    before = sl.masks_of(model)
    for step in range(6):
        trained(model, pruning, 1, optimizer, step)
        masks = sl.masks_of(model)
        assert all(bool((before[name] | ~mask).all()) for name, mask in masks.items())
        before = {name: mask.clone() for name, mask in masks.items()}
        for name, mask in masks.items():
            weight = model.get_parameter(name)
            assert not weight[~mask].any()
    trained(model, pruning, 1, optimizer, 6)
    for name, mask in sl.masks_of(model).items():
        assert not optimizer.state[model.get_parameter(name)]["momentum_buffer"][~mask].any()


def test_of_one_step_it_is_find_masks():
    model = net()
    pruning = GradualPruning(model, 0.7, end=1, schedule="one-shot", allocation="global")
    masks = sl.find_masks(model, sparsity=0.7, allocation="global")
    assert pruning.step()
    assert all(torch.equal(masks[name], mask) for name, mask in sl.masks_of(model).items())


@pytest.mark.parametrize("pattern", ["filter", "4x1"])
def test_with_patterns_and_a_first_sparsity(pattern):
    model = net()
    pruning = GradualPruning(model, 0.75, first=0.5, end=4, every=1, pattern=pattern)
    assert 0.4 < sl.sparsity(model) < 0.6
    told = trained(model, pruning, 4)
    assert [due for due, _ in told] == [True] * 4
    assert 0.7 < told[-1][1] < 0.8


def test_with_a_score_that_sees_data():
    model = net()
    draw = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 3, 8, 8, generator=draw), torch.randint(4, (8,), generator=draw))]
    pruning = GradualPruning(
        model, 0.8, end=2, every=1, score="snip", data=data, loss=cross_entropy
    )
    told = trained(model, pruning, 2)
    assert told[-1][1] == pytest.approx(0.8, abs=0.01)


def test_data_that_can_be_read_once_is_kept():
    draw = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 3, 8, 8, generator=draw), torch.randint(4, (8,), generator=draw))]
    options = {"end": 3, "every": 1, "score": "snip", "loss": cross_entropy}
    one, other = net(), net()
    trained(one, GradualPruning(one, 0.8, data=data, **options), 3)
    trained(other, GradualPruning(other, 0.8, data=iter(data), **options), 3)
    for name, mask in sl.masks_of(one).items():
        assert torch.equal(mask, sl.masks_of(other)[name])


def test_a_long_run_is_checked_at_its_ends_alone(monkeypatch):
    calls = []
    monkeypatch.setattr("sparselth.pruning.gradual.check_search", lambda *a, **k: calls.append(k))
    GradualPruning(net(), 0.9, end=10**6, every=1)
    assert len(calls) == 3


def test_masks_of_before_stay_pruned():
    model = net()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5))
    before = {name: mask.clone() for name, mask in sl.masks_of(model).items()}
    pruning = GradualPruning(model, 0.75, first=0.5, end=2, every=1)
    trained(model, pruning, 2)
    for name, mask in sl.masks_of(model).items():
        assert bool((before[name] | ~mask).all())


def half(**options):
    model = net()
    return sl.sparsify(model, sl.find_masks(model, sparsity=0.5, **options))


def pruned(model):
    return {name: sl.sparsity({name: mask}) for name, mask in sl.masks_of(model).items()}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (half, {}),
        (half, {"schedule": "linear", "first": 0.7}),
        (half, {"allocation": "erk"}),
        (half, {"allocation": "global"}),
        (lambda: half(allocation="erk"), {}),
        (lambda: half(pattern="filter"), {"pattern": "filter"}),
        (lambda: half(exclude=()), {}),
        (lambda: half(exclude=()), {"pattern": "filter"}),
        (net, {"schedule": lambda part, first, last: last if part in (0.5, 1) else first}),
    ],
)
def test_a_model_that_is_sparse_already_is_pruned_on(make, options):
    model = make()
    begin = sl.masks_of(model)
    pruning = GradualPruning(model, 0.9, end=10, every=1, **options)
    asked = pruning._sites.keys()
    shares = []
    for _ in range(10):
        before = sl.masks_of(model)
        assert pruning.step()
        after = sl.masks_of(model)
        assert all(bool((before[name] | ~mask).all()) for name, mask in after.items())
        shares.append(sl.sparsity({name: after[name] for name in asked}))
    assert shares == sorted(shares)
    assert 0.87 < shares[-1] < 0.95  # whole filters of what is half pruned are more
    for name in begin.keys() - asked:
        assert torch.equal(begin[name], after[name])


def test_it_begins_with_what_the_model_has():
    model = half()
    pruning = GradualPruning(model, 0.9, end=4, every=1, schedule="linear")
    shares = [sl.sparsity(model)]
    for _ in range(4):
        pruning.step()
        shares.append(sl.sparsity(model))
    assert shares == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9], abs=1e-3)


def test_shares_by_name_begin_no_later_than_they_end_and_leave_others_alone():
    model = half()
    others = sl.masks_of(model)["3.weight"]
    GradualPruning(model, {"6.weight": 0.9}, end=2, every=1, first=0.6)
    assert torch.equal(others, sl.masks_of(model)["3.weight"])
    assert pruned(model)["6.weight"] == pytest.approx(0.6, abs=1e-3)
    model = net()
    pruning = GradualPruning(model, {"3.*": 0.9, "6.weight": 0.2}, end=2, every=1, first=0.5)
    for _ in range(2):
        found = pruned(model)
        assert found["6.weight"] == pytest.approx(0.2, abs=1e-3)
        pruning.step()
    assert pruned(model)["3.weight"] == pytest.approx(0.9, abs=1e-3)


def test_a_layer_that_is_sparser_than_it_is_to_be_stays():
    model = net()
    sl.sparsify(model, sl.find_masks(model, sparsity={"3.weight": 0.95, "6.weight": 0.1}))
    before = sl.masks_of(model)["3.weight"]
    pruning = GradualPruning(model, 0.5, end=2, every=1)
    for _ in range(2):
        pruning.step()
    assert torch.equal(before, sl.masks_of(model)["3.weight"])
    assert pruned(model)["6.weight"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("sparsity", [0.9, {"3.weight": 0.9}])
def test_a_model_as_sparse_as_it_is_to_be_is_refused(sparsity):
    model = net()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.95))
    with pytest.raises(sl.SparselthError, match="already: nothing would be pruned"):
        GradualPruning(model, sparsity, end=5)


def test_a_model_without_values_is_refused():
    for model in (net(), half()):
        with pytest.raises(sl.SparselthError, match=r"3\.weight lies on the meta device"):
            GradualPruning(model.to("meta"), 0.9, end=5)


def test_a_layer_without_any_weight_left_is_refused_at_once():
    model = net()
    sl.sparsify(model, {"3.weight": torch.zeros(10, 8, 3, 3, dtype=torch.bool)})
    with pytest.raises(sl.SparselthError, match=r"no weight is left in 3\.weight"):
        GradualPruning(model, 0.9, end=5)


@sl.use_choice("fixed")
def test_a_run_that_began_sparse_goes_on_from_where_it_was():
    """Also where the model has the masks of the stop when the pruning is made anew."""
    whole = half()
    trained(whole, GradualPruning(whole, 0.9, end=9, every=2), 10)
    parted = half()
    first = GradualPruning(parted, 0.9, end=9, every=2)
    optimizer = sl.optim.SGD(parted.parameters(), lr=0.05, momentum=0.9)
    trained(parted, first, 5, optimizer)
    saved = copy.deepcopy([optimizer.state_dict(), first.state_dict()])
    again = GradualPruning(parted, 0.9, end=9, every=2)
    optimizer = sl.optim.SGD(parted.parameters(), lr=0.05, momentum=0.9)
    for thing, state in zip((optimizer, again), saved, strict=True):
        thing.load_state_dict(state)
    trained(parted, again, 5, optimizer, 5)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parted.state_dict()[name]), name


@pytest.mark.parametrize("first", [0.0, 0.2])
def test_coupled_channels_have_all_their_masks_from_the_beginning(first):
    pytest.importorskip("torch_pruning")
    data = [(torch.randn(2, 3, 8, 8), None)]
    options = {"end": 4, "every": 2, "data": data, "pattern": "coupled", "first": first}

    def chain():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)
        )

    model, other = chain(), chain()
    pruning = GradualPruning(model, 0.5, **options)
    names = sl.masks_of(model).keys()
    again = GradualPruning(other, 0.5, **options)
    for _ in range(4):
        pruning.step()
    assert sl.masks_of(model).keys() == names == {"1.weight", "3.weight"}
    other.load_state_dict(model.state_dict())
    again.load_state_dict(pruning.state_dict())
    for name, mask in sl.masks_of(model).items():
        assert torch.equal(mask, sl.masks_of(other)[name])


@sl.use_choice("fixed")
def test_a_run_goes_on_where_it_was_left():
    whole, parted = net(), net()
    trained(whole, GradualPruning(whole, 0.9, end=9, every=2), 10)
    first = GradualPruning(parted, 0.9, end=9, every=2)
    optimizer = sl.optim.SGD(parted.parameters(), lr=0.05, momentum=0.9)
    trained(parted, first, 5, optimizer)
    saved = copy.deepcopy([parted.state_dict(), optimizer.state_dict(), first.state_dict()])
    model = net()
    again = GradualPruning(model, 0.9, end=9, every=2)
    optimizer = sl.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for thing, state in zip((model, optimizer, again), saved, strict=True):
        thing.load_state_dict(state)
    trained(model, again, 5, optimizer, 5)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"end": 0}, "end must be a whole number >= 1"),
        ({"end": 5, "begin": 5}, "end must be a whole number >= 6"),
        ({"end": 5, "every": 0}, "every must be a whole number >= 1"),
        ({"end": 5, "schedule": "often"}, "unknown schedule 'often'"),
        ({"end": 5, "first": 0.9}, "nothing would be pruned"),
        ({"end": 5, "score": "snip"}, "needs data and loss"),
        ({"end": 5, "pattern": "2:4"}, "'2:4' fixes the sparsity"),
        ({"end": 5, "pattern": "kernel_shape"}, "fixes the sparsity"),
    ],
)
def test_bad_input(options, says):
    model = net()
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            GradualPruning(model, 0.9, **options)
    assert not sl.masks_of(model)


@pytest.mark.parametrize(
    "state",
    [
        *({}, [1], {"steps": 1}, {"method": "GradualPruning", "steps": -1}),
        {"method": "RigL", "steps": 1},
        {"method": "GradualPruning", "steps": 1, "start": "half"},
    ],
)
def test_a_state_that_is_none(state):
    pruning = GradualPruning(net(), 0.9, end=5)
    with pytest.raises(sl.SparselthError):
        pruning.load_state_dict(state)
