"""Scores of filters from their weights: formulas by hand, planted cases, how they rank."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import ScoreContext, fpgm_after_norm
from sparselth.pruning.scores import SCORES


def conv(filters):
    """A convolution with these filters (C_out, C_in, 3, 3), alone in its model."""
    model = nn.Sequential(nn.Conv2d(filters.shape[1], len(filters), 3))
    with torch.no_grad():
        model[0].weight.copy_(filters)
    return model


def scores(name, filters):
    score = SCORES[name] if isinstance(name, str) else name
    return score({"0.weight": filters}, ScoreContext(conv(filters)))["0.weight"]


def kept(model, score, sparsity, **options):
    masks = sl.find_masks(model, score=score, sparsity=sparsity, exclude=(), **options)
    return {
        name: mask.flatten(1).any(1).nonzero().flatten().tolist() for name, mask in masks.items()
    }


def test_norms_are_means_over_a_filter():
    filters = torch.randn(5, 3, 3, 3)
    by_hand = [sum(abs(v) for v in row.flatten().tolist()) / 27 for row in filters]
    torch.testing.assert_close(scores("l1", filters), torch.tensor(by_hand, dtype=torch.float64))
    by_hand = [(sum(v * v for v in row.flatten().tolist()) / 27) ** 0.5 for row in filters]
    torch.testing.assert_close(scores("l2", filters), torch.tensor(by_hand, dtype=torch.float64))


def test_fpgm_sums_distances():
    filters = torch.randn(6, 2, 3, 3)
    rows = filters.flatten(1).double()
    by_hand = [sum(float((a - b).norm()) for b in rows) / 6 / 18**0.5 for a in rows]
    torch.testing.assert_close(scores("fpgm", filters), torch.tensor(by_hand, dtype=torch.float64))


def test_what_fpgm_prunes_first_is_a_duplicate():
    filters = torch.eye(8)[:, :2].repeat(1, 9).view(8, 2, 3, 3) + torch.randn(8, 2, 3, 3)
    filters[5] = filters[2]
    found = scores("fpgm", filters)
    assert found[5] == found[2]
    others = [float(found[i]) for i in range(8) if i not in (2, 5)]
    # A copy has one distance of zero; with filters as far apart as these it is nearest of all.
    assert float(found[2]) < min(others)
    assert kept(conv(filters), "fpgm", 2 / 8)["0.weight"] == [0, 1, 3, 4, 6, 7]


def test_two_stages_prune_by_norm_and_measure_distances_among_the_rest():
    filters = torch.randn(10, 2, 3, 3)
    filters[7] *= 0.01
    filters[1] *= 0.02
    score = fpgm_after_norm(0.2)
    found = scores(score, filters)
    assert found.argsort()[:2].tolist() == [7, 1]
    rest = [i for i in range(10) if i not in (1, 7)]
    assert torch.equal(found[rest].argsort(), scores("fpgm", filters[rest]).argsort())
    # Three pruned: the two of small norm, then the nearest to the others among the rest.
    third = rest[int(scores("fpgm", filters[rest]).argmin())]
    gone = set(range(10)) - set(kept(conv(filters), score, 0.3)["0.weight"])
    assert gone == {1, 7, third}
    assert set(range(10)) - set(kept(conv(filters), score, 0.1)["0.weight"]) == {7}
    assert torch.equal(scores("fpgm-mix", filters), scores(fpgm_after_norm(0.1), filters))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), "half"])
def test_a_share_is_checked(share):
    with pytest.raises(sl.SparselthError, match="share must be a finite number"):
        fpgm_after_norm(share)


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm"])
def test_filters_of_large_and_small_layers_are_ranked_alike(name):
    """Of one distribution of weights none of two layers loses more, whatever their sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 64, 1), nn.Conv2d(64, 64, 3))
    with torch.no_grad():
        for layer in model:
            layer.weight.normal_()
            layer.weight *= torch.rand(64, 1, 1, 1) + 0.5
    left = {n: len(rows) for n, rows in kept(model, name, 0.5, allocation="global").items()}
    assert sum(left.values()) == 64
    assert all(16 <= count <= 48 for count in left.values())


def test_whole_filters_go_and_stay():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3), nn.Linear(4, 5))
    masks = sl.find_masks(model, score="l1", sparsity=0.5, exclude=())
    rows = {
        "0.weight": masks["0.weight"].flatten(1),
        "1.weight": masks["1.weight"].transpose(0, 1).flatten(1),
        "2.weight": masks["2.weight"],
    }
    for name, mask in rows.items():
        assert torch.equal(mask.any(1), mask.all(1)), name
    assert [int(mask.all(1).sum()) for mask in rows.values()] == [4, 3, 3]


def test_the_pattern_may_be_said_and_no_other():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    plain = sl.find_masks(model, score="l1", sparsity=0.5, exclude=())
    said = sl.find_masks(model, score="l1", sparsity=0.5, exclude=(), pattern="filter")
    assert torch.equal(plain["0.weight"], said["0.weight"])
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match="'l1' ranks whole filters; got pattern='16x1'"):
            sl.find_masks(model, score="l1", exclude=(), pattern="16x1")


def test_within_ranks_what_is_left():
    filters = torch.arange(1.0, 9.0).view(8, 1, 1, 1).expand(8, 2, 3, 3).clone()
    model = conv(filters)
    left = torch.ones(8, 2, 3, 3, dtype=torch.bool)
    left[7] = False  # the largest is gone already
    left[6, 0] = False  # and half of the next
    masks = sl.find_masks(model, score="l2", sparsity=0.5, exclude=(), within={"0.weight": left})
    assert masks["0.weight"].flatten(1).any(1).tolist() == [False] * 3 + [True] * 4 + [False]
    assert torch.equal(masks["0.weight"][6], left[6])


def test_equal_filters_are_refused():
    model = conv(torch.ones(4, 2, 3, 3))
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=r"'l1' is the same for all of 0\.weight"):
            sl.find_masks(model, score="l1", sparsity=0.5, exclude=())
