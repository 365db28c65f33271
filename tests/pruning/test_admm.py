"""ADMM: the updates are the textbook's, and it drives weights to the sparsity set."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import Levels, rho


def net():
    return nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 9), nn.Linear(9, 2))


def test_updates_follow_the_formulas():
    model = net()
    admm = sl.ADMM(model, sparsity=0.75, rho=0.1, rho_schedule=rho.growing(2.0))
    assert list(admm.parameters) == ["0.weight", "1.weight"]
    w = [p.detach().clone() for p in admm.parameters.values()]
    masks = sl.ops.topk_mask(w, [18, 27])
    for z, u, weight, mask in zip(admm.z, admm.u, w, masks, strict=True):
        assert torch.equal(z, weight * mask)
        assert not u.any()

    with torch.no_grad():
        for p in admm.parameters.values():
            p.add_(torch.randn_like(p))
    w = [p.detach().clone() for p in admm.parameters.values()]
    old_z = [z.clone() for z in admm.z]
    want_penalty = 0.05 * sum((a - z).square().sum() for a, z in zip(w, old_z, strict=True))
    torch.testing.assert_close(admm.penalty(), want_penalty)

    result = admm.update()
    want_z = [a * m for a, m in zip(w, sl.ops.topk_mask(w, [18, 27]), strict=True)]
    for z, u, a, b in zip(admm.z, admm.u, w, want_z, strict=True):
        assert torch.equal(z, b)
        torch.testing.assert_close(u, (a - b) / 2)  # rho doubled, so the scaled dual halves
    primal = sum((a - b).square().sum() for a, b in zip(w, want_z, strict=True)).sqrt()
    moved = sum((a - b).square().sum() for a, b in zip(want_z, old_z, strict=True)).sqrt()
    assert result.primal == pytest.approx(float(primal), rel=1e-5)
    assert result.dual == pytest.approx(0.1 * float(moved), rel=1e-5)
    norm, z_norm = (float(sum(a.square().sum() for a in x).sqrt()) for x in (w, want_z))
    assert result.relative == pytest.approx(float(primal) / norm, rel=1e-5)
    # Boyd et al. 2011, section 3.3.1; |U| is |W - Z| after this first update.
    absolute = (72 + 108) ** 0.5 * 1e-5
    assert result.primal_tolerance == pytest.approx(absolute + 1e-2 * max(norm, z_norm), rel=1e-5)
    assert result.dual_tolerance == pytest.approx(absolute + 1e-3 * float(primal), rel=1e-5)
    assert not result.converged
    assert admm.rho == 0.2


def test_the_penalty_is_the_squared_norm_and_its_gradient():
    model = net()
    admm = sl.ADMM(model, sparsity=0.5, rho=0.3)
    admm.penalty().backward()
    for p, z, u in zip(admm.parameters.values(), admm.z, admm.u, strict=True):
        torch.testing.assert_close(p.grad, 0.3 * (p.detach() - z + u))


def test_it_converges_to_the_sparsity_set():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    target = torch.randn(20, 20)
    admm = sl.ADMM(model, sparsity=0.8, rho=0.5, rho_schedule="growing")
    weight = admm.parameters["0.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    updates = []
    for _ in range(15):
        for _ in range(60):
            optimizer.zero_grad()
            (0.5 * (weight - target).square().sum() + admm.penalty()).backward()
            optimizer.step()
        updates.append(admm.update())
    assert updates[-1].relative < 0.02 < updates[0].relative
    assert updates[-1].converged
    assert not updates[0].converged
    mask = admm.masks()["0.weight"]
    assert int(mask.sum()) == 80
    # For this loss the sparse optimum keeps the target's largest entries.
    assert (mask == sl.ops.topk_mask(target, 80)).float().mean() > 0.95


@pytest.mark.parametrize("pattern", ["4x1", "filter", "2:4"])
def test_it_prunes_towards_a_pattern(pattern):
    model = net()
    admm = sl.ADMM(model, pattern=pattern, sparsity=0.5)
    for _ in range(3):
        admm.update()
    masks = admm.hard_prune()
    want = sl.find_masks(model, pattern=pattern, sparsity=0.5)
    for name, mask in masks.items():
        assert torch.equal(mask, want[name])
        assert torch.equal(model.get_parameter(name) != 0, mask)
    # Z is in the set: its own projection.
    z = dict(zip(admm.parameters, admm.z, strict=True))
    for found, again in zip(admm.z, admm.projection.nearest(z), strict=True):
        assert found.any()
        assert torch.equal(found, again)


def test_global_allocation():
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(50)
    masks = sl.ADMM(model, sparsity=0.6, allocation="global").masks()
    assert masks["0.weight"].float().mean() > masks["1.weight"].float().mean()
    assert sl.sparsity(masks) == pytest.approx(0.6, abs=0.01)


def test_a_cut_that_leaves_a_layer_nothing_is_an_error():
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(1e-4)
    admm = sl.ADMM(model, sparsity=0.6, allocation="global")
    admm.update()
    before = [p.detach().clone() for p in model.parameters()]
    for cut in (admm.masks, admm.hard_prune):
        with pytest.raises(ValueError, match=r"no weight is left in 0\.weight; lower the"):
            cut()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_state_round_trip():
    model = net()
    admm = sl.ADMM(model, sparsity=0.5, rho_schedule=rho.staged(1, stages=2))
    admm.update()
    other = sl.ADMM(model, sparsity=0.5, rho_schedule=rho.staged(1, stages=2))
    other.load_state_dict(admm.state_dict())
    assert other.rho == admm.rho == 1e-2
    assert other.update() == admm.update()
    assert other.rho == admm.rho == 1e-2  # the second stage is the last
    assert all(torch.equal(a, b) for a, b in zip(other.u + other.z, admm.u + admm.z, strict=True))
    with pytest.raises(ValueError, match=r"the ADMM state has no 'z.0.weight' of shape \(12, 6\)"):
        other.load_state_dict({"rho": 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.5}, r"in \[0, 1\); got 1.5"),
        ({"sparsity": {"0.weight": 0.5}, "allocation": "erk"}, "is its own allocation"),
        ({"allocation": "given"}, "got float and 'given'"),
        (
            {"sparsity": {"0.weight": 0.5, "9.weight": 0.1}, "allocation": "given"},
            r"sparsity names \['9.weight'\], but the model's",
        ),
        (
            {"sparsity": {"0.weight": 0.5, "1.weight": 1.0}, "allocation": "given"},
            r"in \[0, 1\); got 1.0",
        ),
        ({"projection": Levels(), "pattern": "2:4"}, "takes either a projection, or sparsity"),
        ({"pattern": "2:3", "sparsity": 0.9}, "2:3 fixes the sparsity"),
        ({"rho": 0}, "rho must be a finite number > 0, got 0"),
        ({"rho": float("nan")}, "rho must be a finite number > 0, got nan"),
        ({"rho": "a"}, "rho must be a finite number > 0, got 'a'"),
        ({"abs_tol": "a"}, "abs_tol must be a finite number >= 0, got 'a'"),
        ({"rel_tol": float("inf")}, "rel_tol must be a finite number >= 0, got inf"),
        ({"projection": "a"}, "with the methods support, nearest, project_; got 'a'"),
        ({"projection": Levels}, "projection must be a set such as"),
        ({"rho_schedule": 5}, "rho_schedule must be a function of an ADMMUpdate .*got 5"),
        ({"rho_schedule": "falling"}, "unknown rho schedule 'falling'; known: balanced, constant"),
        ({"allocation": "lamp"}, "lamp. ranks by other than magnitudes"),
        ({"allocation": "erk", "pattern": "2:4"}, "2:4 fixes the sparsity of every layer"),
    ],
)
def test_bad_input_is_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        sl.ADMM(net(), **options)


@pytest.mark.parametrize("factor", [0, -1.0, float("nan"), "a", None])
def test_a_schedule_that_returns_no_factor_is_named(factor):
    admm = sl.ADMM(net(), sparsity=0.5, rho_schedule=lambda update, count: factor)
    with pytest.raises(sl.SparselthError, match="the factor that rho_schedule returns must be"):
        admm.update()


@pytest.mark.parametrize("change", [{"rho": None}, {"rho": -1.0}, {"updates": 1.5}])
def test_a_state_without_its_numbers_is_refused_whole(change):
    admm = sl.ADMM(net(), sparsity=0.5)
    state = {name: t.clone() + 1 if name[1] == "." else t for name, t in admm.state_dict().items()}
    before = [z.clone() for z in admm.z]
    with pytest.raises(sl.SparselthError, match=f"{next(iter(change))} of the ADMM state must be"):
        admm.load_state_dict({**state, **change})
    assert all(torch.equal(z, was) for z, was in zip(admm.z, before, strict=True))


def test_sparsity_given_by_layer_and_the_hard_cut():
    model = net()
    admm = sl.ADMM(model, sparsity={"0.weight": 0.25, "1.weight": 0.75})
    admm.update()
    assert [int((z != 0).sum()) for z in admm.z] == [54, 27]
    masks = admm.hard_prune()
    for name, kept in (("0.weight", 54), ("1.weight", 27)):
        assert int(masks[name].sum()) == kept
        assert torch.equal(model.get_parameter(name) != 0, masks[name])
    found = sl.find_masks(net(), sparsity={"0.weight": 0.5, "1.weight": 0.0}, allocation="given")
    assert [int(m.sum()) for m in found.values()] == [36, 108]


def test_diverged_weights_are_named_and_nothing_changes():
    model = net()
    admm = sl.ADMM(model, sparsity=0.5)
    before = [t.clone() for t in admm.z + admm.u]
    with torch.no_grad():
        model[1].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"1\.weight holds NaN or Inf"):
        admm.update()
    assert all(torch.equal(a, b) for a, b in zip(before, admm.z + admm.u, strict=True))


def test_a_replaced_parameter_is_followed():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    admm = sl.ADMM(model, sparsity=0.5)
    optimizer = sl.optim.SGD(model.parameters(), lr=0.1, admm=admm)
    model[1].weight = nn.Parameter(torch.randn(6, 6))
    optimizer.add_param_group({"params": [model[1].weight]})
    model(torch.randn(4, 6)).sum().backward()
    before = model[1].weight.detach().clone()
    optimizer.step()
    pull = 0.1 * (admm.rho * (before - admm.z[1] + admm.u[1]) + model[1].weight.grad)
    torch.testing.assert_close(model[1].weight.detach(), before - pull)
    admm.update()
    masks = admm.hard_prune()
    assert model[1].weight.count_nonzero() == masks["1.weight"].sum() == 18


def test_a_parameter_of_another_shape_is_refused():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    admm = sl.ADMM(model, sparsity=0.5)
    model[1].weight = nn.Parameter(torch.randn(7, 6))
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=r"1\.weight has shape \(7, 6\) now, \(6, 6\)"):
            admm.update()


def test_a_shared_weight_is_penalised_once():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    admm = sl.ADMM(model, sparsity=0.5, exclude=(), rho=2.0)
    assert list(admm.parameters) == ["0.weight"]
    admm.u[0].fill_(1.0)
    want = (model[0].weight - admm.z[0] + 1).square().sum()
    torch.testing.assert_close(admm.penalty(), want)


def test_groups_of_transposed_weights_are_refused():
    with pytest.raises(sl.SparselthError, match=r"weight have their inputs first"):
        sl.ADMM(nn.ConvTranspose2d(4, 4, 3), sparsity=0.5, pattern="filter", exclude=())
    sl.ADMM(nn.ConvTranspose2d(4, 4, 3), sparsity=0.5, exclude=())
