"""LASSO channel selection: its optimum, planted redundant channels, and the refit."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import ScoreContext
from sparselth.pruning.scores.lasso import _descend, lasso


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, stride=2)
    ).eval()


def batches(*sizes):
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, 10, 10, generator=draw), None) for n in sizes]


def scores(model, data, name="2.weight"):
    weights = {name: model.get_parameter(name).detach()}
    return lasso(weights, ScoreContext(model, data))[name]


def test_the_descent_ends_at_the_optimum():
    """At the minimum the slope is +-penalty where a channel is in, and less where it is out."""
    torch.manual_seed(0)
    x = torch.randn(50, 12, dtype=torch.float64)
    x[:, 3] = x[:, 2] + 0.1 * x[:, 4]
    gram, target = x.T @ x, x.T @ (x.sum(1) + torch.randn(50, dtype=torch.float64))
    for share in (0.9, 0.3, 0.05):
        taken = torch.zeros(12, dtype=torch.float64)
        penalty = share * float(target.abs().max())
        _descend(gram, target, gram.diagonal(), taken, penalty)
        slope = target - gram @ taken
        inside = taken != 0
        assert 0 < int(inside.sum()) <= 12
        torch.testing.assert_close(slope[inside], penalty * taken[inside].sign(), rtol=1e-2, atol=0)
        assert bool((slope[~inside].abs() <= penalty * (1 + 1e-2)).all())


def test_channels_that_give_nothing_and_copies_go_first():
    model = net()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, -1.0  # dead behind the ReLU
        model[0].weight[5], model[0].bias[5] = model[0].weight[1], model[0].bias[1]
        model[2].weight[:, 5] = 0.5 * model[2].weight[:, 1]  # a smaller copy of channel 1
    found = scores(model, batches(32))
    assert float(found[2]) == 0
    order = found.argsort().tolist()
    assert order[0] == 2
    assert order.index(5) < order.index(1)
    masks = sl.find_masks(
        model, score="lasso", sparsity=0.25, data=batches(32), exclude=["0.weight"]
    )
    left = masks["2.weight"].transpose(0, 1).flatten(1)
    assert torch.equal(left.any(1), left.all(1))
    assert not left[2].any()
    assert int(left.all(1).sum()) == 6


def test_batches_add_up_and_draws_repeat():
    model = net()
    one, again = scores(model, batches(16)), scores(model, batches(16))
    assert torch.equal(one, again)
    twice = scores(model, batches(16) * 2)
    assert torch.corrcoef(torch.stack([one, twice]))[0, 1] > 0.9


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 6, 3, padding="same", dilation=2),
        nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 6, (1, 3), stride=(1, 2), padding="valid"),
    ],
    ids=["same", "reflect", "valid"],
)
def test_rows_are_what_the_layer_multiplies(layer):
    from sparselth.pruning.scores.layer_inputs import layer_inputs

    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer).eval()
    ((_, rows),) = layer_inputs(model, ["1.weight"], batches(2))
    given = (rows.flatten(1) @ layer.weight.detach().double().flatten(1).T) + layer.bias.double()
    outputs = model(batches(2)[0][0]).detach().double().movedim(1, -1).flatten(0, 2)
    nearest = torch.cdist(given.detach(), outputs).amin(1)
    assert len(rows) == 20
    assert float(nearest.max()) < 1e-4


def test_layers_that_are_no_one_product_are_refused():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1))
    data = [(torch.randn(2, 4, 6, 6), None)]
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=r"0\.weight is that of a Conv2d of 2 groups"):
            sl.find_masks(model, score="lasso", data=data, exclude=())


def test_no_signal_is_refused():
    model = net()
    nn.init.constant_(model[0].weight, 1.0)
    data = [(torch.full((2, 3, 10, 10), -100.0), None)]  # all channels dead behind the ReLU
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=r"'lasso' is the same for all of 2\.weight"):
            sl.find_masks(model, score="lasso", data=data, exclude=["0.weight"])


def test_data_is_read_once_for_all_layers():
    options = {"score": "lasso", "exclude": (), "sparsity": 0.5}
    once = sl.find_masks(net(), data=iter(batches(8, 8)), **options)
    listed = sl.find_masks(net(), data=batches(8, 8), **options)
    assert len(listed) == 2
    assert all(torch.equal(once[name], listed[name]) for name in listed)
