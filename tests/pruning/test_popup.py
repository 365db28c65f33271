"""Edge-popup: weights as drawn, exactly k of them, and the straight-through gradient."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.pruning import EdgePopup


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, stride=2, padding="valid", groups=2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(8 * 9, 16), nn.ReLU(), nn.Linear(16, 4)),
    )


def batch(step=0):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(8, 2, 8, 8, generator=draw), torch.randint(4, (8,), generator=draw)


class Straight(torch.autograd.Function):
    """mask * weight, as if the magnitude of every score were its weight's factor."""

    @staticmethod
    def forward(ctx, score, weight, mask):
        ctx.save_for_backward(weight, score)
        return weight * mask

    @staticmethod
    def backward(ctx, grad):
        weight, score = ctx.saved_tensors
        return grad * weight * score.sign(), None, None


def test_gradients_are_straight_through():
    plain, model = net().double(), net().double()
    popup = EdgePopup(model, 0.6)
    x, y = batch()
    cross_entropy(model(x.double()), y).backward()
    masks = sl.masks_of(model)
    drawn = {name: parameter.detach() for name, parameter in plain.named_parameters()}
    scores = {name: s.detach().clone().requires_grad_() for name, s in popup.scores.items()}
    mixed = {name: Straight.apply(s, drawn[name], masks[name]) for name, s in scores.items()}
    loss = cross_entropy(torch.func.functional_call(plain, drawn | mixed, (x.double(),)), y)
    wanted = torch.autograd.grad(loss, list(scores.values()))
    for (name, score), grad in zip(popup.scores.items(), wanted, strict=True):
        torch.testing.assert_close(score.grad, grad, msg=name)
        assert bool(score.grad[~masks[name]].any())
    assert all(p.grad is None for n, p in model.named_parameters() if not n.endswith("score"))


class Written(nn.Module):
    """What layers give is written to."""

    def __init__(self, inplace):
        super().__init__()
        self.first, self.second, self.inplace = nn.Linear(6, 6), nn.Linear(6, 6), inplace

    def forward(self, x):
        h = self.first(input=x)
        if self.inplace:
            h += x
            h.relu_()
        else:
            h = (h + x).relu()
        return self.second(h)


def test_what_layers_give_may_be_written_to():
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = Written(inplace)
        popup = EdgePopup(model, 0.5)
        model(torch.randn(2, 3, 6)).square().sum().backward()
        found.append([score.grad for score in popup.scores.values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_weights_never_change_and_exactly_k_are_kept():
    model = net()
    drawn = {name: p.detach().clone() for name, p in model.named_parameters()}
    popup = EdgePopup(model, 0.7)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=5.0)
    moved = 0
    for step in range(6):
        x, y = batch(step)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        before = sl.masks_of(model)
        optimizer.step()
        assert popup.step()
        for name, mask in sl.masks_of(model).items():
            assert int(mask.sum()) == round(0.3 * mask.numel())
            score = popup.scores[name].detach().abs()
            assert float(score[mask].min()) >= float(score[~mask].max())
            weight = model.get_parameter(name).detach()
            assert torch.equal(weight, drawn[name] * mask)
            moved += int((mask & ~before[name]).sum())
    assert moved > 0
    assert torch.equal(model[1].weight, drawn["1.weight"])


def test_it_learns_digits_above_chance():
    data = sl.data.load("mnist5k").limited(1000, 500)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    popup = EdgePopup(model, 0.5)
    recipe = sl.Recipe(epochs=4, learning_rate=0.5, batch_size=50, weight_decay=0.0, augment=False)
    history = sl.train(model, data, recipe, pruning=popup)
    assert history.records[-1].test_accuracy > 50
    frozen = model[1].bias.requires_grad
    popup.finish()
    assert not frozen
    assert sl.sparsity(model) == pytest.approx(0.5, abs=0.01)
    assert not any(name.endswith(("score", "drawn")) for name in model.state_dict())
    assert all(p.requires_grad for p in model.parameters())


def test_what_was_frozen_before_stays_frozen():
    model = net()
    model[1].requires_grad_(False)
    popup = EdgePopup(model, 0.6)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "score" not in n)
    popup.finish()
    assert [p.requires_grad for p in model[1].parameters()] == [False, False]
    assert all(p.requires_grad for n, p in model.named_parameters() if not n.startswith("1."))


def test_finished_it_says_so():
    popup = EdgePopup(net(), 0.5)
    popup.finish()
    for use in (popup.finish, popup.step, lambda: popup.scores, lambda: popup.load_state_dict({})):
        with pytest.raises(sl.SparselthError, match="this EdgePopup is finished"):
            use()


def test_made_dense_before_it_is_finished_it_says_so():
    model = net()
    popup = EdgePopup(model, 0.5)
    sl.densify(model)
    x, y = batch()
    loss = cross_entropy(model(x), y)
    with pytest.raises(sl.SparselthError, match=r"finish\(\) before sparselth\.densify"):
        loss.backward()
    popup.finish()
    cross_entropy(model(x), y).backward()


def shared():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def test_saved_and_loaded_it_goes_on():
    model = net()
    popup = EdgePopup(model, 0.6)
    optimizer = torch.optim.SGD(popup.scores.values(), lr=5.0)

    def steps(model, popup, optimizer, numbers):
        for step in numbers:
            x, y = batch(step)
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            popup.step()

    steps(model, popup, optimizer, range(2))
    saved = copy.deepcopy(model.state_dict())
    steps(model, popup, optimizer, range(2, 4))
    torch.manual_seed(5)
    other = net()
    again = EdgePopup(other, 0.6)
    other.load_state_dict(saved)
    again.load_state_dict({})
    steps(other, again, torch.optim.SGD(again.scores.values(), lr=5.0), range(2, 4))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EdgePopup(sl.sparsify(net(), sl.find_masks(net())), 0.5), "densify it first"),
        (
            lambda: EdgePopup(nn.Sequential(nn.ConvTranspose2d(2, 2, 3)), 0.5),
            "scores Conv1d, Conv2d",
        ),
        (lambda: EdgePopup(net(), 1.5), "sparsity"),
        (lambda: EdgePopup(net(), 0.0), r"in \(0, 1\), got 0"),
        (lambda: EdgePopup(net().to("meta"), 0.5), "0.weight lies on the meta device"),
        (
            lambda: EdgePopup(nn.MultiheadAttention(4, 2), 0.5, exclude=["in_proj_weight"]),
            "the attention around out_proj.weight computes with the weight itself: exclude it",
        ),
        (lambda: EdgePopup(shared(), 0.5), "several layers share 0.weight: exclude it"),
        (
            lambda: EdgePopup(net(), 0.5).load_state_dict({"steps": 3}),
            "state of EdgePopup is empty",
        ),
    ],
)
def test_bad_input(make, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            make()
