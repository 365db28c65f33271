"""Any optimizer of torch on masks: nothing comes back, and what is kept moves as it would."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl

OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
}


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    masks = {name: torch.rand_like(model.get_parameter(name)) < 0.5 for name in ("0.weight",)}
    return sl.sparsify(model, masks), masks["0.weight"]


def step(model, optimizer):
    x = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_and_their_state_stay_zero(name):
    model, mask = network()
    weight, other = model[0].weight, model[3].weight
    before = other.detach().clone()
    optimizer = sl.optim.keep_on_mask(OPTIMIZERS[name](model.parameters()))
    for _ in range(3):
        step(model, optimizer)
        assert not weight[~mask].any()
        assert weight[mask].all()
    assert (other != before).any()
    for value in optimizer.state[weight].values():
        if value.shape == weight.shape:
            assert not value[~mask].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kept_weights_move_as_without_it(name):
    (model, mask), (twin, _) = network(), network()
    optimizer = sl.optim.keep_on_mask(OPTIMIZERS[name](model.parameters()))
    plain = OPTIMIZERS[name](twin.parameters())
    for _ in range(3):
        step(model, optimizer)
        step(twin, plain)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        if a is model[0].weight:
            a, b = a[mask], b[mask]
        assert torch.equal(a, b)


def test_what_is_added_to_gradients_and_state_from_before_pruning_goes():
    model, mask = network()
    dense = sl.densify(model)
    optimizer = sl.optim.keep_on_mask(torch.optim.Adam(dense.parameters(), lr=0.01))
    step(dense, optimizer)
    assert optimizer.state[dense[0].weight]["exp_avg"].all()
    model = sl.sparsify(dense, {"0.weight": mask})
    weight = model[0].weight
    optimizer.zero_grad()
    model(torch.randn(1, 2, 4, 4)).sum().backward()
    weight.grad += 1
    optimizer.step()
    assert not weight[~mask].any()
    assert not optimizer.state[weight]["exp_avg"][~mask].any()
    assert not weight.grad[~mask].any()


def test_schedulers_state_dicts_and_closures_work():
    model, mask = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    sl.optim.keep_on_mask(optimizer)  # also after a scheduler took hold of it
    step(model, optimizer)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    state = copy.deepcopy(optimizer.state_dict())
    again = sl.optim.keep_on_mask(torch.optim.AdamW(model.parameters(), lr=0.1))
    again.load_state_dict(state)
    step(model, again)
    assert not model[0].weight[~mask].any()
    search = sl.optim.keep_on_mask(torch.optim.LBFGS(model.parameters(), max_iter=3))

    def closure():
        search.zero_grad()
        loss = model(torch.ones(1, 2, 4, 4)).square().sum()
        loss.backward()
        return loss

    search.step(closure)
    assert not model[0].weight[~mask].any()


def test_what_keeps_to_the_masks_already_is_refused():
    model, _ = network()
    with pytest.raises(ValueError, match="keeps to the masks by itself"):
        sl.optim.keep_on_mask(sl.optim.SGD(model.parameters(), lr=0.1))
    optimizer = sl.optim.keep_on_mask(torch.optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match="keeps to the masks already"):
        sl.optim.keep_on_mask(optimizer)


def test_what_is_no_optimizer_or_no_penalty_is_named():
    model, _ = network()
    with pytest.raises(sl.SparselthError, match=r"one of torch\.optim or derived from it, got N"):
        sl.optim.keep_on_mask(None)
    for kind in (sl.optim.SGD, sl.optim.AdamW):
        with pytest.raises(sl.SparselthError, match=r"admm must be a sparselth\.ADMM, got str"):
            kind(model.parameters(), lr=0.1, admm="a")
        optimizer = kind(model.parameters(), lr=0.1)
        with pytest.raises(sl.SparselthError, match=r"got sparselth\.training\.admm\.ADMMSchedule"):
            optimizer.admm = sl.training.ADMMSchedule(sl.ADMM(model, 0.5, exclude=()))


def test_a_loaded_state_leaves_the_penalty():
    model, _ = network()
    admm = sl.ADMM(model, 0.5, exclude=())
    for kind in (sl.optim.SGD, sl.optim.AdamW):
        optimizer = kind(model.parameters(), lr=0.1, admm=admm)
        optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.admm is admm
        assert copy.copy(optimizer).admm is admm
