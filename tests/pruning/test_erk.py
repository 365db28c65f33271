"""ERK: densities by shape against an oracle, and masks and ADMM that follow them."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparselth as sl
from sparselth.ops.patterns import find_pattern
from sparselth.pruning import erk_sparsities
from sparselth.pruning.patterns import kernel_shapes

extents = st.integers(1, 24)
shapes = st.one_of(
    st.tuples(extents, extents),
    st.tuples(extents, extents, st.integers(1, 5), st.integers(1, 5)),
)


def weights(*given):
    return {f"l{i}": torch.empty(shape) for i, shape in enumerate(given)}


def oracle(given, density):
    """Find the scale of min(1, scale * sum / product) that keeps `density`, by bisection."""
    wanted = density * sum(map(prod, given))

    def densities(scale):
        return [min(1.0, scale * sum(shape) / prod(shape)) for shape in given]

    low, high = 0.0, 2.0 * max(map(prod, given))
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(d * prod(shape) for d, shape in zip(densities(middle), given, strict=True))
        low, high = (middle, high) if kept < wanted else (low, middle)
    return densities(high)


def test_by_hand():
    # 52 of 104 weights stay. (10 + 10) / 100 and (2 + 2) / 4 at scale 52 / 24 would be 2.17 for the
    # small one, so it is dense and the large one has 48 of 100.
    found = erk_sparsities(weights((10, 10), (2, 2)), 0.5)
    assert found == {"l0": pytest.approx(0.52), "l1": 0.0}
    # No layer is clamped: scale 10.4 / 24.
    found = erk_sparsities(weights((10, 10), (2, 2)), 0.9)
    assert found == {"l0": pytest.approx(1 - 2.08 / 24), "l1": pytest.approx(1 - 10.4 / 24)}


def test_a_layer_may_be_clamped_only_after_another():
    # At scale 52 / 31 only (2, 2) is full; at 48 / 27, what is left, (3, 4) is full too.
    found = erk_sparsities(weights((10, 10), (2, 2), (3, 4)), 64 / 116)
    assert found == {"l0": pytest.approx(0.64), "l1": 0.0, "l2": 0.0}


@given(st.lists(shapes, min_size=1, max_size=6), st.floats(0, 0.995))
@settings(max_examples=200)
def test_densities_are_proportional_to_the_shapes_and_add_up(given, sparsity):
    found = erk_sparsities(weights(*given), sparsity)
    assert list(found) == [f"l{i}" for i in range(len(given))]
    assert all(0 <= share < 1 for share in found.values())
    density = [1 - share for share in found.values()]
    assert density == pytest.approx(oracle(given, 1 - sparsity), rel=1e-9)
    sizes = list(map(prod, given))
    kept = sum(d * n for d, n in zip(density, sizes, strict=True))
    assert kept == pytest.approx((1 - sparsity) * sum(sizes), rel=1e-12)
    scales = [d * prod(s) / sum(s) for d, s in zip(density, given, strict=True) if d < 1 - 1e-9]
    assert scales == pytest.approx(scales[:1] * len(scales), rel=1e-6)


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 32, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 48, 1),
        nn.Flatten(),
        nn.Linear(48, 40),
        nn.Linear(40, 5),
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8, 0.95])
def test_masks_and_admm_keep_what_it_says(sparsity):
    model = net()
    masks = sl.find_masks(model, sparsity=sparsity, allocation="erk")
    asked = erk_sparsities(sl.pruning.prunable_parameters(model), sparsity)
    for name, mask in masks.items():
        assert int((~mask).sum()) == round(asked[name] * mask.numel())
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert abs(kept - (1 - sparsity) * total) <= len(masks) / 2
    if sparsity == 0.3:  # the depthwise weight is too small for its share
        assert [name for name, mask in masks.items() if mask.all()] == ["2.weight"]

    admm = sl.ADMM(model, sparsity=sparsity, allocation="erk")
    assert all(torch.equal(m, masks[name]) for name, m in admm.masks().items())
    admm.update()
    for z, mask in zip(admm.z, masks.values(), strict=True):
        assert torch.equal(z != 0, mask)
    cut = admm.hard_prune()
    assert all(torch.equal(model.get_parameter(name) != 0, m) for name, m in cut.items())


@pytest.mark.parametrize("pattern", ["4x1", "filter", "kernel"])
def test_groups(pattern):
    masks = sl.find_masks(net(), sparsity=0.7, allocation="erk", pattern=pattern)
    asked = erk_sparsities(masks, 0.7)
    groups = find_pattern(pattern)
    assert len(set(asked.values())) > 2
    error = 0
    for name, mask in masks.items():
        n = groups.groups(mask.shape)
        size = mask.numel() // n
        assert int(mask.sum()) == (n - round(n * asked[name])) * size
        error += size / 2
    total = sum(mask.numel() for mask in masks.values())
    assert abs(sl.sparsity(masks) - 0.7) * total <= error


def test_kernel_shapes():
    model = nn.Sequential(nn.Conv2d(16, 24, 3), nn.Conv2d(24, 16, 3), nn.Conv2d(16, 16, 3))
    shapes = kernel_shapes([model[1].weight])
    masks = sl.find_masks(model, sparsity=0.9, allocation="erk", pattern=shapes, exclude=())
    asked = erk_sparsities(masks, 0.9)
    for name, mask in masks.items():
        assert abs(int((~mask).sum()) - asked[name] * mask.numel()) <= 2  # half a shape
    with pytest.raises(ValueError, match=r"2\.weight: these kernel shapes prune 55\.6%"):
        sl.find_masks(
            nn.Sequential(nn.Conv2d(16, 24, 3), nn.Conv2d(24, 24, 3), nn.Conv2d(2, 2, 3)),
            sparsity=0.6,
            allocation="erk",
            pattern=shapes,
        )


def test_a_layer_that_would_keep_nothing_keeps_one():
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.warns(UserWarning, match=r"1\.weight \(4 weights, sparsity 0\.9.* 0\.75 reached\)"):
        masks = sl.find_masks(model, sparsity=0.999, allocation="erk")
    assert int(masks["1.weight"].sum()) == 1


def test_weights_without_entries_and_no_weights():
    assert erk_sparsities({}, 0.5) == {}
    found = erk_sparsities(weights((0, 3), (10, 10), (0,)), 0.5)
    assert found == {"l0": 0.0, "l1": pytest.approx(0.5), "l2": 0.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: erk_sparsities(weights((3, 3)), 1.0), r"in \[0, 1\); got 1.0"),
        (lambda: erk_sparsities({"gain": torch.ones(())}, 0.5), r"\['gain'\] have no dimension"),
        (
            lambda: sl.find_masks(net(), pattern="2:4", allocation="erk"),
            "2:4 fixes the sparsity of every layer, and so does .erk.; leave it out",
        ),
        (
            lambda: sl.find_masks(net(), pattern="kernel_shape", allocation="erk"),
            'allocation="erk" with kernel shapes takes a sparsity, got none',
        ),
        (
            lambda: sl.find_masks(net(), sparsity={"1.weight": 0.5}, allocation="erk"),
            "got dict and 'erk'",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
