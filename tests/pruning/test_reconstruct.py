"""The refit: a planted redundant channel costs nothing, and no error grows."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import reconstruct


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 12), nn.Linear(12, 4)),
    )


def batches(*sizes):
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, 10, 10, generator=draw), None) for n in sizes]


def channels(weight, *gone):
    mask = torch.ones(weight.shape, dtype=torch.bool)
    mask[:, list(gone)] = False
    return mask


def test_a_redundant_channel_is_taken_over():
    model = net()
    with torch.no_grad():  # the fifth map is twice the second
        model[0].weight[5], model[0].bias[5] = 2 * model[0].weight[1], 2 * model[0].bias[1]
    before = model(batches(4)[0][0]).detach()
    mask = channels(model[2].weight, 5)
    bias = model[2].bias.detach().clone()
    found = reconstruct(model, {"2.weight": mask}, batches(32))
    masked, refit = found["2.weight"]
    assert masked > 0.01
    assert refit < 1e-9
    assert not model[2].weight[:, 5].any()
    assert torch.equal(model[2].bias, bias)
    torch.testing.assert_close(model(batches(4)[0][0]).detach(), before, rtol=1e-3, atol=1e-4)


def test_it_is_the_minimum_over_what_is_left():
    """Against torch's least squares of the rows themselves, and against nudges."""
    model, data = nn.Sequential(nn.Linear(6, 5)), [(torch.randn(40, 6), None)]
    old = model[0].weight.detach().double().clone()
    mask = channels(old, 1, 4)
    _, refit = reconstruct(model, {"0.weight": mask}, data)["0.weight"]
    x = data[0][0].double()
    left = [0, 2, 3, 5]
    by_rows = torch.linalg.lstsq(x[:, left], x @ old.T).solution.T
    torch.testing.assert_close(model[0].weight[:, left].double(), by_rows, rtol=1e-4, atol=1e-5)
    target = x @ old.T
    by_hand = float((x[:, left] @ by_rows.T - target).square().sum() / target.square().sum())
    assert refit == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("score", ["lasso", "magnitude"])
def test_no_error_grows_and_the_output_is_nearer(sparsity, score):
    model, data = net(), batches(200, 100)
    plain = net()
    options = {} if score == "lasso" else {"pattern": "channel"}
    masks = sl.find_masks(model, score=score, sparsity=sparsity, data=data, **options)
    found = reconstruct(model, masks, data)
    assert list(found) == ["2.weight", "5.weight"]
    assert all(refit <= masked for masked, refit in found.values())
    assert any(refit < masked for masked, refit in found.values())
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()
    x = batches(64)[0][0]
    target = plain(x).detach()
    cut = net()
    sl.densify(sl.sparsify(cut, masks))
    missed = [float((m(x) - target).square().mean()) for m in (model, cut)]
    assert missed[0] < missed[1]
    assert model.training


def test_filters_may_be_pruned_besides():
    model = net()
    mask = channels(model[2].weight, 0, 3)
    mask[4] = False
    reconstruct(model, {"2.weight": mask}, batches(16))
    assert not model[2].weight[~mask].any()
    assert model[2].weight[0][mask[0]].all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model, masks: masks | {"9.weight": masks["2.weight"]}, "does not have"),
        (
            lambda model, masks: {"2.weight": torch.rand(6, 8, 3, 3) < 0.5},
            "other than whole inputs",
        ),
        (lambda model, masks: {"2.weight": masks["2.weight"][:3]}, "mask of '2.weight'"),
        (lambda model, masks: {"2.weight": "all"}, "mask"),
        (
            lambda model, masks: {"2.bias": torch.ones(6, dtype=torch.bool)},
            "2.bias is no weight of a layer",
        ),
        (lambda model, masks: sl.masks_of(sl.sparsify(model, masks)), "densify first"),
    ],
)
def test_bad_input(change, says):
    model = net()
    masks = change(model, {"2.weight": channels(model[2].weight, 1)})
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            reconstruct(model, masks, batches(4))


def test_no_batch():
    model = net()
    with pytest.raises(sl.SparselthError, match="data holds no batch"):
        reconstruct(model, {"2.weight": channels(model[2].weight, 1)}, [])


def test_a_weight_of_two_layers_is_refused():
    model = net().append(nn.Conv2d(8, 6, 3))
    model[7].weight = model[2].weight
    with pytest.raises(sl.SparselthError, match=r"2\.weight and 7\.weight are one weight"):
        reconstruct(model, {"2.weight": channels(model[2].weight, 1)}, batches(4))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (5, "data must be batches"),
        ([(batches(2)[0][0] / 0, None)], r"what the layer of '2\.weight' takes holds NaN or Inf"),
    ],
)
def test_bad_data(data, says):
    model = net()
    before = model[2].weight.detach().clone()
    with pytest.raises(sl.SparselthError, match=says):
        reconstruct(model, {"2.weight": channels(model[2].weight, 1)}, data)
    assert torch.equal(model[2].weight, before)


def test_a_mask_of_a_norm_is_refused():
    model = net().append(nn.BatchNorm1d(4))
    with pytest.raises(sl.SparselthError, match=r"7\.weight is that of a BatchNorm1d; reconstr"):
        reconstruct(model, {"7.weight": torch.ones(4, dtype=torch.bool)}, batches(4))
