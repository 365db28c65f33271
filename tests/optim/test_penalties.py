"""Group lasso and slimming: proximal steps and gradients by their formulas."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.optim import GroupLasso, ScaleL1

GROUPS = {
    "filter": lambda w: [w[i] for i in range(w.shape[0])],
    "channel": lambda w: [w[:, j] for j in range(w.shape[1])],
    "kernel": lambda w: [w[i, j] for i in range(w.shape[0]) for j in range(w.shape[1])],
    "column": lambda w: [
        w.reshape(*w.shape[:2], -1)[:, j, t]
        for j in range(w.shape[1])
        for t in range(w[0, 0].numel())
    ],
}


def square():
    return nn.Parameter(torch.ones(2, 2))


def sgd(parameters, lr=0.5):
    return torch.optim.SGD(parameters, lr=lr)


@pytest.mark.parametrize("pattern", GROUPS)
@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (5, 6)])
def test_a_group_becomes_zero_if_and_only_if_its_norm_is_at_most_the_threshold(pattern, shape):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    before = weight.detach().clone()
    norms = [float(group.norm()) for group in GROUPS[pattern](before)]
    strength = sorted(norms)[len(norms) // 2] / 0.5  # that of the middle one is at the threshold
    lasso = GroupLasso([weight], strength, pattern=pattern)
    optimizer = sgd([weight])
    lasso.attach(optimizer)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for group, old, norm in zip(
        GROUPS[pattern](weight.detach()), GROUPS[pattern](before), norms, strict=True
    ):
        if norm <= strength * 0.5:
            assert not group.any()
        else:
            torch.testing.assert_close(group, old * (1 - strength * 0.5 / norm))
    assert any(norm <= strength * 0.5 for norm in norms)
    assert any(norm > strength * 0.5 for norm in norms)


@pytest.mark.parametrize("pattern", GROUPS)
def test_the_gradient_is_that_of_the_sum_of_norms(pattern):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, 3, 3, dtype=torch.float64))
    with torch.no_grad():
        GROUPS[pattern](weight)[0].zero_()  # has no gradient: zero is taken
    lasso = GroupLasso([weight], 0.3, pattern=pattern, proximal=False)
    by_hand = 0.3 * sum(g.square().sum().clamp(min=1e-300).sqrt() for g in GROUPS[pattern](weight))
    torch.testing.assert_close(lasso.value(), by_hand)
    (wanted,) = torch.autograd.grad(by_hand, weight)
    before = weight.detach().clone()
    optimizer = sgd([weight])
    lasso.attach(optimizer)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before - 0.5 * wanted)


def test_the_proximal_step_minimizes():
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    lasso = GroupLasso([nn.Parameter(weight.clone())], 1.0)
    found = lasso._shrunk(weight, 0.7)

    def objective(values):
        return (values - weight).square().sum() / 2 + 0.7 * values.flatten(1).norm(dim=1).sum()

    for _ in range(50):
        assert objective(found) <= objective(found + 0.05 * torch.randn_like(found))


@pytest.mark.parametrize("proximal", [True, False])
def test_scales_of_norms(proximal):
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
    scales = torch.tensor([0.5, -0.5, 0.05, -0.05])
    with torch.no_grad():
        model[1].weight.copy_(scales)
    slim = ScaleL1(model, 0.2, proximal=proximal)
    assert float(slim.value()) == pytest.approx(0.2 * 1.1)
    optimizer = sgd(model.parameters())
    slim.attach(optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = torch.tensor([0.4, -0.4, 0.0, 0.0] if proximal else [0.4, -0.4, -0.05, 0.05])
    torch.testing.assert_close(model[1].weight.detach(), moved)


@pytest.mark.parametrize("make", [sl.optim.SGD, sl.optim.AdamW, torch.optim.SGD, torch.optim.Adam])
def test_masked_layers_stay_on_their_masks_and_groups_die(make):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 3))
    )
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5))
    mask = sl.masks_of(model)["2.weight"]
    optimizer = make(model.parameters(), lr=0.05)
    lasso = GroupLasso([model[2]._parameters["weight"]], 0.5 if "SGD" in make.__name__ else 10.0)
    lasso.attach(optimizer)
    x, y = torch.randn(16, 2, 6, 6), torch.randint(3, (16,))
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    weight = model[2].weight.detach()
    assert not weight[~mask].any()
    assert not weight.flatten(1).any(1).all()
    assert torch.isfinite(model(x)).all()


def test_as_a_regularizer_of_the_training_loop():
    torch.manual_seed(0)
    data = (torch.randn(64, 6), torch.randint(3, (64,)))
    recipe = sl.Recipe(epochs=3, learning_rate=0.1, batch_size=16, augment=False)

    def run(regularizer_of):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        sl.train(model, data, recipe, regularizer=regularizer_of(model))
        return model[0].weight.detach()

    pulled = run(lambda m: GroupLasso([m[0].weight], 2.0))
    assert not pulled.any(1).all()
    assert run(lambda m: None).any(1).all()


def test_the_optimizer_keeps_what_is_attached_to_it():
    weight = nn.Parameter(torch.ones(3, 3))
    optimizer = sgd([weight])
    GroupLasso([weight], 100.0).attach(optimizer)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert not weight.detach().any()


@pytest.mark.parametrize("proximal", [True, False])
@pytest.mark.parametrize("pattern", GROUPS)
@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution_are_along_its_second_axis(pattern, groups, proximal):
    """It is pulled as a weight that lies the other way round."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 4, 3, groups=groups))
    weight = model[1].weight
    other = nn.Parameter(weight.detach().transpose(0, 1).contiguous())
    pulls = [
        GroupLasso([weight], 0.5, model=model, pattern=pattern, proximal=proximal),
        GroupLasso([other], 0.5, pattern=pattern, proximal=proximal),
    ]
    torch.testing.assert_close(pulls[0].value(), pulls[1].value())
    for each, pull in zip((weight, other), pulls, strict=True):
        optimizer = sgd([each])
        pull.attach(optimizer)
        each.grad = torch.zeros_like(each)
        optimizer.step()
    torch.testing.assert_close(weight, other.transpose(0, 1))


def test_a_model_stands_for_its_prunable_weights():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 4, 3), nn.Flatten())
    lasso = GroupLasso(model.append(nn.Linear(4, 2)), 0.5)
    assert [id(p) for p in lasso.parameters] == [id(model[1].weight)]
    with torch.no_grad():
        model[1].weight[:, 2] *= 1e-6
    optimizer = sgd(model.parameters(), lr=1e-2)
    lasso.attach(optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert (model[1].weight == 0).flatten(2).all(2).all(0).tolist() == [False, False, True, False]


MAKERS = {
    "torch": lambda p: torch.optim.SGD(p, lr=0.5),
    "fused": lambda p: torch.optim.SGD(p, lr=0.5, fused=True),
    "ours": lambda p: sl.optim.SGD(p, lr=0.5),
}


def penalties(proximal):
    """Return penalties with what they act on, which pull by their gradients alone."""
    torch.manual_seed(0)
    linear, norm = nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)
    yield linear, GroupLasso([linear.weight], 0.1, proximal=proximal)
    yield norm, ScaleL1(norm, 0.1, proximal=proximal)


@pytest.mark.parametrize("proximal", [True, False])
@pytest.mark.parametrize("given", ["by place", "by name"])
@pytest.mark.parametrize("make", MAKERS)
def test_they_act_where_a_closure_makes_the_gradients(make, given, proximal):
    for layer, penalty in penalties(proximal):
        before = layer.weight.detach().clone()
        wanted = before - 0.05 * penalty._gradient(before)
        optimizer = MAKERS[make](layer.parameters())
        penalty.attach(optimizer)
        calls = []

        def closure(layer=layer, optimizer=optimizer, calls=calls):
            optimizer.zero_grad()
            loss = (layer(torch.randn(3, 4)) * 0).sum()
            loss.backward()
            calls.append(loss)
            return loss

        loss = optimizer.step(closure) if given == "by place" else optimizer.step(closure=closure)
        assert calls == [loss]
        torch.testing.assert_close(layer.weight.detach(), wanted)


@pytest.mark.parametrize("proximal", [True, False])
@pytest.mark.parametrize("overflows", [False, True])
@pytest.mark.parametrize("make", MAKERS)
def test_a_scaled_loss_changes_nothing_and_an_overflow_skips_them(make, overflows, proximal):
    for layer, penalty in penalties(proximal):
        before = layer.weight.detach().clone()
        wanted = before if overflows else before - 0.05 * penalty._gradient(before)
        optimizer = MAKERS[make](layer.parameters())
        penalty.attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        loss = (layer(torch.randn(3, 4)) * 0).sum()
        scaler.scale(loss * torch.inf if overflows else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        torch.testing.assert_close(layer.weight.detach(), wanted)


def test_detached_it_acts_no_more():
    weight = nn.Parameter(torch.ones(3, 3))
    lasso, optimizer = GroupLasso([weight], 1.0), sgd([weight])
    lasso.attach(optimizer)
    lasso.attach(optimizer)  # once is enough
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    after = weight.detach().clone()
    torch.testing.assert_close(after, torch.ones(3, 3) * (1 - 0.5 / 3**0.5))
    lasso.detach()
    optimizer.step()
    assert torch.equal(weight.detach(), after)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GroupLasso([], 1.0), "takes weights"),
        (lambda: GroupLasso([square()], 0.0), "strength must be"),
        (lambda: GroupLasso(nn.Linear(3, 2).parameters(), 1.0), "biases and norms have no groups"),
        (lambda: GroupLasso([square()], 1.0, model=nn.Linear(2, 2)), "make both of one model"),
        (lambda: GroupLasso([square()], 1.0, model="linear"), "model must be"),
        (lambda: GroupLasso([square()], 1.0, pattern="2:4"), "takes .filter."),
        (lambda: GroupLasso([square()], 1.0, pattern="16x1"), "takes .filter."),
        (lambda: ScaleL1(nn.Linear(2, 2), 1.0), "the model has none"),
        (lambda: ScaleL1(nn.BatchNorm1d(2), -1.0), "strength must be"),
        (lambda: GroupLasso([square()], 1.0).attach("sgd"), "must be one of"),
        (
            lambda: GroupLasso([square()], 1.0).attach(
                sgd(nn.Linear(2, 2).parameters())
            ),
            "none of the parameters",
        ),
    ],
)  # fmt: skip
def test_bad_input(make, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            make()
