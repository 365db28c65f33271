"""Learned criteria: the search finds what was planted in each layer."""

import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import ScoreContext
from sparselth.pruning.scores import SCORES
from sparselth.pruning.scores.learned import chosen_criteria, lfpc


def planted():
    """Two layers with half of the filters useful: of the first those of large norm, of the second
    those far from the others, which are smaller.

    Behind each, a readout that takes only the useful ones into account.
    """
    torch.manual_seed(0)
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    with torch.no_grad():
        for layer in (first, second):
            layer.bias.fill_(1.0)
        # Large ones, all alike; small ones, spread out. Distances rank the small ones above.
        first.weight[:4] = 1.0 + 0.01 * torch.randn(4, 8)
        first.weight[4:] = 0.0
        first.weight[4:, :4] = -0.9 * torch.eye(4)
        second.weight.copy_(first.weight)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = first, second, nn.Tanh()

        def forward(self, x):
            return self.act(self.first(x))[:, :4], self.act(self.second(x))[:, 4:]

    return Both()


def loss(out, y):
    return sum((a - b).square().mean() for a, b in zip(out, y, strict=True)) * 10


def batches(model):
    draw = torch.Generator().manual_seed(1)
    x = [torch.randn(32, 8, generator=draw) for _ in range(4)]
    return [(one, tuple(t.detach() for t in model(one))) for one in x]


def test_the_planted_criterion_is_found_in_each_layer():
    model = planted()
    weights = {n: p.detach() for n, p in model.named_parameters() if p.dim() > 1}
    kept = dict.fromkeys(weights, 4)
    context = ScoreContext(model, batches(model), loss, kept=kept)
    for name in weights:  # that is what is planted
        by_norm = SCORES["l1"](weights, context)[name]
        by_distance = SCORES["fpgm"](weights, context)[name]
        assert by_norm.argsort(descending=True)[:4].sort().values.tolist() == [0, 1, 2, 3]
        assert by_distance.argsort(descending=True)[:4].sort().values.tolist() == [4, 5, 6, 7]
    torch.manual_seed(0)
    chosen = chosen_criteria(weights, context)
    assert chosen["first.weight"] in ("l1", "l2")
    assert chosen["second.weight"] == "fpgm"
    torch.manual_seed(0)
    scores = lfpc(weights, context)
    assert torch.equal(scores["second.weight"], SCORES["fpgm"](weights, context)["second.weight"])
    masks = sl.find_masks(
        model, score="lfpc", sparsity=0.5, exclude=(), data=batches(model), loss=loss
    )
    assert masks["first.weight"].all(1).tolist() == [True] * 4 + [False] * 4
    assert masks["second.weight"].all(1).tolist() == [False] * 4 + [True] * 4
