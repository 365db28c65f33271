"""Masks that move: which weights go, which wake, by hand; and a user's loop around it."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.pruning import SET, DynamicSparsity, RigL


def net(sparsity=0.8):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(160, 20), nn.ReLU(), nn.Linear(20, 4)),
    )
    return sl.sparsify(model, sl.find_masks(model, score="random", sparsity=sparsity))


def batch(step):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 8, generator=draw), torch.randint(4, (8,), generator=draw)


def trained(model, dynamic, steps, optimizer, first=0):
    told = []
    for step in range(first, first + steps):
        x, y = batch(step)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        told.append(dynamic.step())
    return told


def masks_of(model):
    return {name: mask.clone() for name, mask in sl.masks_of(model).items()}


def sgd(model):
    return sl.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def dense_gradients(model, x, y):
    """By every weight, of the plain model with zeros where weights are pruned."""
    plain = sl.densify(copy.deepcopy(model))
    cross_entropy(plain(x), y).backward()
    return {name: parameter.grad for name, parameter in plain.named_parameters()}


def test_rigl_drops_the_smallest_and_wakes_the_largest_gradients():
    model = net()
    rigl = RigL(model, end=100, drop=0.4, every=3)
    optimizer = sgd(model)
    assert trained(model, rigl, 2, optimizer) == [False, False]
    x, y = batch(2)
    gradients = dense_gradients(model, x, y)
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()
    before = masks_of(model)
    weights = {name: model.get_parameter(name).detach().clone() for name in before}
    assert rigl.step()
    share = 0.4 * (1 + math.cos(math.pi * 3 / 100)) / 2
    for name, mask in masks_of(model).items():
        old, kept = before[name].flatten(), int(before[name].sum())
        count = round(share * kept)
        size = weights[name].flatten().abs()
        order = sorted(old.nonzero().flatten().tolist(), key=lambda i: float(size[i]))
        stay = set(order[count:])
        rest = [i for i in range(old.numel()) if i not in stay]
        grad = gradients[name].flatten().abs()
        woken = sorted(rest, key=lambda i: -float(grad[i]))[:count]
        assert set(mask.flatten().nonzero().flatten().tolist()) == stay | set(woken), name
        assert int(mask.sum()) == kept
        new = torch.zeros_like(old)
        new[woken] = True
        weight = model.get_parameter(name).detach().flatten()
        assert not weight[new & ~old].any()  # begin at zero
        assert torch.equal(
            weight[new & old], weights[name].flatten()[new & old]
        )  # dropped and back


def test_gradients_of_training_are_what_they_were():
    """The step that collects computes the same network, and its gradients stay on the mask."""
    one, other = net(), net()
    rigl, optimizers = RigL(one, end=100, every=2), [sgd(one), sgd(other)]
    for step in range(2):
        x, y = batch(step)
        for model, optimizer in zip((one, other), optimizers, strict=True):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
        for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
            mask = sl.masks_of(one).get(name)
            assert mask is None or not a.grad[~mask].any()
        for optimizer in optimizers:
            optimizer.step()
        rigl.step()


def test_a_woken_weight_has_no_momentum():
    model = net()
    rigl, optimizer = RigL(model, end=100, every=2), sgd(model)
    trained(model, rigl, 1, optimizer)
    before = masks_of(model)
    trained(model, rigl, 1, optimizer, 1)
    for name, mask in masks_of(model).items():
        new = mask & ~before[name]
        assert new.any()
        assert not optimizer.state[model.get_parameter(name)]["momentum_buffer"][new].any()


def test_set_wakes_any_and_always_as_many():
    model = net()
    moves, optimizer = SET(model, end=100, every=1, drop=0.5), sgd(model)
    x, _ = batch(0)
    before = masks_of(model)
    for step in range(4):
        trained(model, moves, 1, optimizer, step)
        now = masks_of(model)
        for name, mask in now.items():
            kept = int(before[name].sum())
            assert int(mask.sum()) == kept
            assert int((mask & ~before[name]).sum()) <= round(0.5 * kept)
            assert (mask & ~before[name]).any()
        before = now
    assert torch.isfinite(model(x)).all()


def test_no_mask_moves_after_the_end():
    model = net()
    rigl, optimizer = RigL(model, end=6, every=2), sgd(model)
    assert trained(model, rigl, 8, optimizer) == [False, True, False, True] + [False] * 4
    assert not any(
        state.collector for m in model.modules() for state in getattr(m, "_states", {}).values()
    )


def test_accumulated_gradients_are_added_up():
    model, plain = net(), net()
    rigl = RigL(model, end=100, every=1)
    for step in range(2):
        cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
    total = [dense_gradients(plain, *batch(step)) for step in range(2)]
    found = rigl._gradients.stop()
    rigl._gradients.start()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, total[0][name] + total[1][name], rtol=1e-4, atol=1e-5)


def test_nearly_dense_and_nearly_empty_layers_move_what_can_be():
    for sparsity in (0.01, 0.995):
        model = net(sparsity)
        kept = {name: int(mask.sum()) for name, mask in sl.masks_of(model).items()}
        trained(model, RigL(model, end=100, every=1, drop=1.0), 3, sgd(model))
        assert {name: int(mask.sum()) for name, mask in sl.masks_of(model).items()} == kept


def test_a_run_goes_on_where_it_was_left():
    whole = net()
    trained(whole, RigL(whole, end=100, every=2), 8, sgd(whole))
    parted = net()
    first, optimizer = RigL(parted, end=100, every=2), sgd(parted)
    trained(parted, first, 3, optimizer)  # the next step collects
    saved = copy.deepcopy([parted.state_dict(), optimizer.state_dict(), first.state_dict()])
    model = net()
    again, optimizer = RigL(model, end=100, every=2), sgd(model)
    for thing, state in zip((model, optimizer, again), saved, strict=True):
        thing.load_state_dict(state)
    trained(model, again, 5, optimizer, 3)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


class Skips(nn.Module):
    """A layer that a step may leave out, and an attention, which reads a weight by itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.attention, self.skips = nn.MultiheadAttention(8, 2, batch_first=True), True

    def forward(self, x):
        x = self.a(x).relu()
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.o((x if self.skips else self.b(x)).mean(1))


def test_a_layer_that_was_not_called_stays_and_one_that_others_read_moves():
    torch.manual_seed(0)
    model = Skips()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    plain = sl.densify(copy.deepcopy(model))
    rigl, before = RigL(model, end=100, every=1), masks_of(model)
    x, y = torch.randn(4, 5, 8), torch.randint(4, (4,))
    for each in (model, plain):
        cross_entropy(each(x), y).backward()
    assert rigl.step()
    after = masks_of(model)
    assert torch.equal(before["b.weight"], after["b.weight"])
    name = "attention.out_proj.weight"
    new, asleep = after[name] & ~before[name], ~before[name]
    grad = plain.get_parameter(name).grad.abs()
    assert new.any()
    assert float(grad[new].min()) >= float(grad[asleep & ~new].max())


@pytest.mark.parametrize("make", [RigL, SET])
def test_a_frozen_layer_stays_as_it_is(make):
    model = net()
    model[3].weight.requires_grad_(False)
    before, weight = masks_of(model), model[3].weight.detach().clone()
    assert trained(model, make(model, end=100, every=1), 2, sgd(model)) == [True, True]
    after = masks_of(model)
    assert torch.equal(before["3.weight"], after["3.weight"])
    assert torch.equal(weight, model[3].weight)
    assert not torch.equal(before["6.weight"], after["6.weight"])
    model.requires_grad_(False)
    assert not make(model, end=100, every=1).step()


def scaled(model, rigl, optimizer, scaler, steps):
    """Train with a scaled loss that overflows in the steps named; return when masks moved."""
    told = []
    for step, overflows in steps:
        x, y = batch(step)
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        scaler.scale(loss * torch.inf if overflows else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        told.append(rigl.step())
    return told


def test_an_overflow_puts_a_move_off_and_a_resumed_run_knows():
    overflows = [False, True, True, False, False, True, False]
    steps = list(enumerate(overflows))
    told = [False, False, False, True, False, False, True]

    def made():
        model = net()
        return model, RigL(model, end=100, every=2), sgd(model), torch.amp.GradScaler("cpu")

    whole = made()
    assert scaled(*whole, steps) == told
    for cut in (2, 3, 6):
        first, again = made(), made()
        scaled(*first, steps[:cut])
        for thing, other in zip(first, again, strict=True):
            other.load_state_dict(copy.deepcopy(thing.state_dict()))
        assert scaled(*again, steps[cut:]) == told[cut:]
        for name, tensor in whole[0].state_dict().items():
            torch.testing.assert_close(tensor, again[0].state_dict()[name])


def test_weights_that_are_not_finite_are_told():
    model = net()
    rigl = RigL(model, end=100, every=1)
    cross_entropy(model(batch(0)[0]) * torch.nan, batch(0)[1]).backward()
    sgd(model).step()
    with pytest.raises(sl.SparselthError, match="weight holds NaN or Inf"):
        rigl.step()


def test_a_step_without_gradients_is_told():
    model = net()
    rigl = RigL(model, end=100, every=2)
    rigl.step()
    with pytest.raises(sl.SparselthError, match="no gradient reached the masked weights"):
        rigl.step()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"end": 100, "every": 100}, "end must be a whole number >= 101"),
        ({"end": 100, "every": 0}, "every must be"),
        ({"end": 1000, "drop": 0}, "drop must be"),
        ({"end": 1000, "drop": 1.5}, "drop must be"),
        ({"end": 1000, "grow": "magnitude"}, "unknown grow 'magnitude'"),
        ({"end": 1000, "decay": "slow"}, "unknown decay 'slow'"),
    ],
)
def test_bad_input(options, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            DynamicSparsity(net(), **options)
    with pytest.raises(sl.SparselthError, match="no mask; call sparselth"):
        DynamicSparsity(nn.Linear(3, 3), end=1000)
