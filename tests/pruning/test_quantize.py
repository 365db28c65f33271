"""The quantizing projection: nearest levels, the best interval, and ADMM towards them."""

import itertools

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import Levels


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_it_is_the_nearest_point_of_the_set(bits):
    # Brute force: of all level assignments, the interval that fits each best.
    count = 2 ** (bits - 1)
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(5, generator=generator, dtype=torch.float64)
        errors = []
        for levels in itertools.product(range(1, count + 1), repeat=5):
            j = torch.tensor(levels, dtype=torch.float64)
            interval = (w.abs() @ j) / (j @ j)
            errors.append((w.abs() - interval * j).square().sum())
        (near,) = Levels(bits).nearest({"w": w})
        torch.testing.assert_close((w - near).square().sum(), min(errors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_equally_spaced_and_pruned_weights_stay_zero(dtype):
    w = torch.randn(40, 50).to(dtype)
    mask = torch.rand(40, 50) < 0.3
    (near,) = Levels(3, {"w": mask}).nearest({"w": w})
    assert near.dtype == dtype
    assert not near[~mask].any()
    levels = near[mask].abs().unique().double()
    assert len(levels) == 4
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(levels / levels[0], torch.arange(1.0, 5).double(), rtol=eps, atol=0)
    assert torch.equal(near[mask].sign(), w[mask].sign())


def test_an_empty_and_a_zero_weight():
    w = {"empty": torch.empty(0), "zero": torch.zeros(3), "all pruned": torch.randn(2, 2)}
    masks = {name: torch.zeros_like(t, dtype=torch.bool) for name, t in w.items()}
    masks["zero"][:] = True
    assert not any(t.any() for t in Levels(4, masks).nearest(w))


def test_admm_pulls_a_sparse_network_to_its_levels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    masks = sl.find_masks(model, sparsity=0.7, exclude=())
    sl.sparsify(model, masks)
    admm = sl.ADMM(model, projection=Levels(3, masks), rho=2.0, exclude=())
    optimizer = sl.optim.SGD(model.parameters(), lr=0.05, admm=admm)
    x, y = torch.randn(64, 20), torch.randn(64, 10)
    residuals = []
    for _ in range(8):
        for _ in range(20):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        residuals.append(admm.update().relative)
    assert residuals[-1] < 0.2 * residuals[0]
    kept = admm.hard_prune()
    for name, mask in masks.items():
        assert torch.equal(kept[name], mask)
        weight = model.get_parameter(name)
        assert weight[mask].abs().unique().numel() <= 4
        assert not weight[~mask].any()
    assert not any(u[~m].any() for u, m in zip(admm.u, masks.values(), strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Levels(0), r"in \[1, 8\], got 0"),
        (lambda: Levels(1.5), r"a whole number in \[1, 8\], got 1\.5"),
        (lambda: Levels("4"), r"a whole number in \[1, 8\], got '4'"),
        (lambda: Levels(4, masks=[torch.ones(3)]), "masks must be a mapping of .*got list"),
        (lambda: Levels(2, {}).nearest({"w": torch.ones(2)}), r"none for \['w'\]"),
        (lambda: Levels(2).nearest({"w": torch.ones(2) / 0}), "w holds NaN or Inf"),
        (
            lambda: Levels(2, {"w": torch.ones(3, dtype=torch.bool)}).nearest({"w": torch.ones(2)}),
            r"the mask of w has shape \(3,\)",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
