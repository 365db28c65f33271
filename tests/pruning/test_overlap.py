"""R_p against the oracles of the paper's definition."""

import math
import warnings

import pytest
import torch

import sparselth as sl
from sparselth.pruning import layer_overlaps, overlap_chance

# R_p of jointly Gaussian weights with correlation r, 2 M samples.
GAUSSIAN = {
    (0.1, 0.0): 0.101, (0.1, 0.5): 0.246, (0.1, 0.9): 0.639, (0.1, 0.99): 0.885,
    (0.2, 0.0): 0.201, (0.2, 0.3): 0.246, (0.2, 0.5): 0.332, (0.2, 0.9): 0.688,
    (0.5, 0.0): 0.500, (0.5, 0.5): 0.553, (0.5, 0.9): 0.772, (0.5, 0.99): 0.928,
}  # fmt: skip


def layers(*sizes):
    return {f"l{i}": torch.randn(n) for i, n in enumerate(sizes)}


@pytest.mark.parametrize("p", [0.1, 0.2, 0.37, 1.0])
def test_identities(p):
    a = layers(1000, 333, 7)
    scaled = {name: -3 * (i + 1) * t for i, (name, t) in enumerate(a.items())}
    assert sl.weight_overlap(a, a, p) == 1.0
    assert sl.weight_overlap(a, scaled, p) == 1.0  # sign and per-layer scale do not matter


def test_several_p_and_single_layers():
    a, b = layers(1000, 333, 4), layers(1000, 333, 4)
    shares = (0.1, 0.25, 1.0)
    total = sl.weight_overlap(a, b, shares)
    assert total == [sl.weight_overlap(a, b, p) for p in shares]
    by_layer = layer_overlaps(a, b, shares)
    for name in ("l0", "l1"):
        alone = [sl.weight_overlap({name: a[name]}, {name: b[name]}, p) for p in shares]
        assert by_layer[name] == alone
    assert math.isnan(by_layer["l2"][0])  # a tenth of four weights is none
    assert layer_overlaps(a, b, 1.0) == {name: [1.0] for name in a}
    assert sl.weight_overlap(a, b, ()) == []


def test_disjoint_supports_and_everything():
    a = {"w": torch.cat([torch.ones(50), torch.zeros(50)])}
    b = {"w": torch.cat([torch.zeros(50), torch.ones(50)])}
    assert sl.weight_overlap(a, b, 0.5) == 0.0
    assert sl.weight_overlap(a, b, 1.0) == 1.0


def test_selection_is_per_layer_and_weighted_by_size():
    a, b = layers(900, 100), layers(900, 100)
    b["l0"] = a["l0"] * 1e-6  # whole overlap in the large layer, whatever its scale
    b["l1"] = (~sl.ops.topk_mask(a["l1"], 50)).float()  # none in the small one
    assert sl.weight_overlap(a, b, 0.5) == pytest.approx(0.9)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_independent_weights_meet_by_chance(p):
    a, b = layers(200_000, 70_000), layers(200_000, 70_000)
    mean, sd = overlap_chance(a, p)
    assert (mean, sd) == (p, pytest.approx((1 - p) / math.sqrt(270_000)))
    assert abs(sl.weight_overlap(a, b, p) - mean) < 5 * sd


@pytest.mark.parametrize(("case", "want"), GAUSSIAN.items())
def test_correlated_gaussians(case, want):
    p, r = case
    a, noise = torch.randn(2_000_000), torch.randn(2_000_000)
    b = r * a + math.sqrt(1 - r * r) * noise
    assert sl.weight_overlap({"w": a}, {"w": b}, p) == pytest.approx(want, abs=0.003)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_a_shared_mask_creates_no_correlation(sparsity):
    n = 500_000
    theta_t, theta_0 = torch.randn(n), torch.randn(n)
    masks = {"w": sl.ops.topk_mask(theta_t, round((1 - sparsity) * n))}
    retrained = {"w": torch.randn(n) * masks["w"]}
    ticket = {"w": theta_0 * masks["w"]}
    mean, sd = overlap_chance(ticket, 0.2, masks)
    assert sd == pytest.approx(0.8 / math.sqrt((1 - sparsity) * n), rel=1e-3)
    assert abs(sl.weight_overlap(ticket, retrained, 0.2, masks) - mean) < 5 * sd


def test_sparse_against_dense_counts_all_weights():
    # Appendix F: p refers to all weights, and zeros are never among the largest.
    dense, other = torch.randn(400_000), torch.randn(400_000)
    sparse = other * sl.ops.topk_mask(torch.randn(400_000), 200_000)
    assert sl.weight_overlap({"w": sparse}, {"w": dense}, 0.2) == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ({"w": torch.ones(3)}, {"v": torch.ones(3)}, {}, r"differ in these names: \['v', 'w'\]"),
        (
            {"w": torch.ones(3)},
            {"w": torch.ones(4)},
            {},
            r"'w' has shape \(3,\) in theta_a, \(4,\)",
        ),
        (
            {"w": torch.ones(3)},
            {"w": torch.ones(3)},
            {"p": 0},
            r"in \(0, 1\], got 0",
        ),
        ({"w": torch.ones(3)}, {"w": torch.ones(3)}, {"p": 0.01}, "selects no weight out of 3"),
        ({"w": torch.ones(3)}, {"w": torch.ones(3) / 0}, {}, r"theta_b\['w'\] holds NaN or Inf"),
        ({}, {}, {}, "theta_a is empty"),
    ],
)
def test_bad_input_is_one_clear_sentence(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        sl.weight_overlap(a, b, **options)


def test_whole_state_dicts_and_mixed_weights_are_refused_by_name():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    state = model.state_dict()
    with pytest.raises(sl.SparselthError, match=r"theta_a\['1\.num_batches_tracked'\] is .*int64"):
        sl.weight_overlap(state, state)
    a = {"w": torch.ones(4), "v": torch.ones(4).double()}
    with pytest.raises(sl.SparselthError, match=r"theta_a\['v'\] is torch\.float64"):
        sl.weight_overlap(a, a)


def test_models_are_compared_by_their_prunable_parameters():
    torch.manual_seed(0)
    a, b = (sl.models.build("conv4", num_classes=10, in_channels=1, width=0.25) for _ in range(2))
    weights = [sl.pruning.prunable_parameters(model) for model in (a, b)]
    assert sl.weight_overlap(a, b, 0.3) == sl.weight_overlap(*weights, 0.3)
    assert sl.weight_overlap(a, weights[0]) == 1.0
    assert sl.pruning.layer_overlaps(a, b) == sl.pruning.layer_overlaps(*weights)
    assert sl.pruning.overlap_chance(a) == sl.pruning.overlap_chance(weights[0])
    masks = sl.find_masks(a, sparsity=0.5)
    assert sl.weight_overlap(a, b, 0.3, masks) == sl.weight_overlap(*weights, 0.3, masks)


def test_zeros_of_both_networks_are_told():
    sparse = [{"a": torch.randn(1000) * (torch.rand(1000) < 0.1)} for _ in range(2)]
    dense = {"a": torch.randn(1000)}
    with pytest.warns(
        UserWarning, match="fewer weights that are not zero than p selects in a:"
    ) as w:
        sl.weight_overlap(*sparse, 0.2)
    assert w[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sl.weight_overlap(*sparse, 0.05)
        sl.weight_overlap(sparse[0], dense, 0.2)
        mask = {"a": sparse[0]["a"] != 0}
        sl.weight_overlap(*sparse, 0.2, mask)
