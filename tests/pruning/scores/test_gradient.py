"""SNIP: the derivative by factors on the weights, over all batches, and a model left as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

import sparselth as sl
from sparselth.pruning import ScoreContext
from sparselth.pruning.scores import grasp, grasp_abs, snip


def net(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 12), nn.Linear(12, 4)),
    )


def batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 2, 6, 6, generator=generator),
            torch.randint(4, (n,), generator=generator),
        )
        for n in sizes
    ]


def weights_of(model):
    return {n: p.detach() for n, p in model.named_parameters() if p.dim() > 1}


def by_factors(model, data, loss):
    """|dL/dc| at c = 1, L the mean over all images, each batch normalized by itself."""
    weights = {n: p.detach() for n, p in model.named_parameters()}
    factors = {n: torch.ones_like(w, requires_grad=True) for n, w in weights_of(model).items()}
    total = 0.0
    for x, y in data:
        scaled = {n: w * factors.get(n, torch.ones(())) for n, w in weights.items()}
        twin = copy.deepcopy(model).train()
        total = total + loss(functional_call(twin, scaled, (x,)), y) * len(x)
    return dict(
        zip(
            factors,
            torch.autograd.grad(total / sum(len(x) for x, _ in data), factors.values()),
            strict=True,
        )
    )


@pytest.mark.parametrize("sizes", [(8,), (5, 3, 8)])
def test_scores_are_the_derivatives_by_factors(sizes):
    model, data = net().double(), [(x.double(), y) for x, y in batches(*sizes)]
    found = snip(weights_of(model), ScoreContext(model, data, cross_entropy))
    for name, wanted in by_factors(model, data, cross_entropy).items():
        torch.testing.assert_close(found[name], wanted)


def test_scores_of_16_bit_weights_are_of_single_precision():
    model, data = net().bfloat16(), [(x.bfloat16(), y) for x, y in batches(4, 4)]
    scores = snip(weights_of(model), ScoreContext(model, data, cross_entropy))
    assert {score.dtype for score in scores.values()} == {torch.float32}
    assert sl.find_masks(model, score="snip", data=data, loss=cross_entropy)


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
def test_the_largest_stay(allocation):
    model, data = net(), batches(16)
    options = {"sparsity": 0.8, "allocation": allocation, "exclude": ()}
    masks = sl.find_masks(model, score="snip", data=data, loss=cross_entropy, **options)
    scores = by_factors(model, data, cross_entropy)
    assert masks.keys() == scores.keys()
    if allocation == "global":
        masks = {"all": torch.cat([m.flatten() for m in masks.values()])}
        scores = {"all": torch.cat([s.flatten() for s in scores.values()])}
        assert int(masks["all"].sum()) == round(0.2 * masks["all"].numel())
    for name, mask in masks.items():
        kept, pruned = scores[name].abs()[mask], scores[name].abs()[~mask]
        assert kept.min() >= pruned.max() * (1 - 1e-4)


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)
    ).double()


def vectors(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (n,), generator=generator),
        )
        for n in sizes
    ]


def gradient_at(model, data, moved):
    """The gradient of the mean loss of logits / 200 with the weights moved."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, step in moved.items():
            twin.get_parameter(name).add_(step)
    parameters = [twin.get_parameter(name) for name in moved]
    loss = sum(cross_entropy(twin(x) / 200, y) * len(x) for x, y in data) / sum(
        len(x) for x, _ in data
    )
    return dict(zip(moved, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("sizes", [(8,), (5, 3)])
def test_the_gradient_flow_is_that_of_finite_differences(sizes):
    model, data = small(), vectors(*sizes)
    weights = weights_of(model)
    flow = gradient_at(model, data, {n: torch.zeros_like(w) for n, w in weights.items()})
    step = 1e-3 / max(g.abs().max() for g in flow.values())
    ahead, behind = (
        gradient_at(model, data, {n: s * step * g for n, g in flow.items()}) for s in (1, -1)
    )
    found = grasp(weights, ScoreContext(model, data, cross_entropy))
    for name, weight in weights.items():
        wanted = weight * (ahead[name] - behind[name]) / (2 * step)
        torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-5 * wanted.abs().max())
    absolute = grasp_abs(weights, ScoreContext(model, data, cross_entropy))
    assert all(torch.equal(absolute[name], found[name]) for name in found)


def test_a_loss_without_curvature_has_no_flow():
    model = nn.Sequential(nn.Linear(4, 3)).double()
    context = ScoreContext(model, [(torch.randn(2, 4).double(), None)], lambda out, y: out.sum())
    assert not grasp(weights_of(model), context)["0.weight"].any()


def test_grasp_keeps_the_largest_values_and_its_variant_the_largest_magnitudes():
    model, data = small(), vectors(8)
    scores = grasp(weights_of(model), ScoreContext(model, data, cross_entropy))
    options = {"data": data, "loss": cross_entropy, "sparsity": 0.5, "exclude": ()}
    for name, rank in (("grasp", lambda s: s), ("grasp-abs", torch.abs)):
        for allocation in ("uniform", "global"):
            masks = sl.find_masks(model, score=name, allocation=allocation, **options)
            flat = torch.cat([rank(scores[n]).flatten() for n in masks])
            kept = torch.cat([mask.flatten() for mask in masks.values()])
            if allocation == "global":
                assert flat[kept].min() >= flat[~kept].max()
            for n, mask in masks.items():
                assert rank(scores[n])[mask].min() >= rank(scores[n])[~mask].max()
    with pytest.raises(sl.SparselthError, match="'grasp' ranks single weights, by their values"):
        sl.find_masks(model, score="grasp", pattern="filter", **options)


def test_what_is_pruned_is_out_of_the_network_that_is_scored():
    model, data = net(), batches(4, 4)
    within = {n: torch.rand(w.shape) < 0.6 for n, w in weights_of(model).items()}
    context = ScoreContext(model, data, cross_entropy, within)
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in within.items():
            pruned.get_parameter(name).mul_(mask)
    for score in (snip, grasp):
        found = score(weights_of(model), context)
        wanted = score(weights_of(pruned), ScoreContext(pruned, data, cross_entropy))
        for name, mask in within.items():
            torch.testing.assert_close(found[name] * mask, wanted[name] * mask)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_random_numbers_are_left_as_they_were(training):
    model = net(dropout=0.5).train(training)
    model[0].eval()
    modes = [m.training for m in model.modules()]
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    sl.find_masks(model, score="snip", data=batches(4, 4), loss=cross_entropy)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["4.weight"]


def test_any_iterable_and_any_loss():
    model, data = net(), batches(4, 4)
    options = {"score": "snip", "sparsity": 0.5}
    wanted = sl.find_masks(model, data=data, loss=cross_entropy, **options)
    images, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), batch_size=4
    )
    for form in (iter(data), tuple(data), ([*batch] for batch in data), loader):
        masks = sl.find_masks(model, data=form, loss=nn.CrossEntropyLoss(), **options)
        assert all(torch.equal(masks[name], wanted[name]) for name in wanted)
    targets = [(x, torch.nn.functional.one_hot(y, 4).float()) for x, y in data]
    assert sl.find_masks(model, data=targets, loss=mse_loss, **options).keys() == wanted.keys()


def test_a_sparse_model_is_ranked_among_what_is_left():
    model = net()
    first = sl.find_masks(model, sparsity=0.5)
    sl.sparsify(model, first)
    options = {"score": "snip", "data": batches(8), "loss": cross_entropy, "within": first}
    masks = sl.find_masks(model, sparsity=0.75, **options)
    for name, mask in masks.items():
        assert int(mask.sum()) == round(0.25 * mask.numel())
        assert not (mask & ~first[name]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, r"the score 'snip' needs data; pass data=\[\(x, y\), ...\]"),
        ({"loss": None}, "the score 'snip' needs loss; pass"),
        ({"data": None, "loss": None}, "needs data and loss"),
        ({"loss": 5}, "loss must be a function of"),
        (
            {"data": torch.ones(2)},
            r"data must be batches, an iterable of \(x, y\), got torch.Tensor",
        ),
        ({"data": 5}, "got int; of one batch"),
        ({"data": []}, "data holds no batch"),
        ({"data": [5]}, r"batch 0 of data must be a pair \(x, y\), got int"),
        ({"data": batches(2)[0]}, r"batch 0 of data must be a pair \(x, y\), got torch.Tensor"),
        ({"data": [(torch.ones(2, 3), torch.ones(2))]}, "cannot be called with the x of batch 0"),
        ({"loss": lambda out, y: out}, r"must be a finite scalar, got a tensor of shape \(4, 4\)"),
        ({"loss": lambda out, y: out.sum() * torch.nan}, "must be a finite scalar, got nan"),
        ({"loss": lambda out, y: 1.0}, "must be a finite scalar, got float"),
        ({"loss": lambda out, y: out.detach().sum()}, "batch 0 does not depend on any weight"),
    ],
)
def test_bad_input_is_one_clear_sentence(options, message):
    model = net()
    modes = [m.training for m in model.modules()]
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=message):
            sl.find_masks(
                model, score="snip", **{"data": batches(4), "loss": cross_entropy, **options}
            )
    assert [m.training for m in model.modules()] == modes


def test_a_frozen_weight_has_no_score():
    model = net()
    model[4].weight.requires_grad_(False)
    with pytest.raises(sl.SparselthError, match=r"4\.weight takes no gradient"):
        sl.find_masks(model, score="snip", data=batches(4), loss=cross_entropy)


class Attends(nn.Module):
    """Attention by the fused op, which has no second derivative."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = (part(x).unsqueeze(1) for part in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.head(self.out(mixed).mean(1))


def test_fused_attention_is_differentiated_twice():
    data = [(torch.randn(4, 5, 8), torch.randint(3, (4,)))]
    masks = sl.find_masks(Attends(), score="grasp", sparsity=0.5, data=data, loss=cross_entropy)
    assert masks.keys() == {"q.weight", "k.weight", "v.weight", "out.weight"}


def aligned(out):
    """Add a loss that has no second derivative."""
    steps = out[:, None].log_softmax(2)
    lengths = torch.tensor([len(out)]), torch.tensor([1])
    return out + nn.functional.ctc_loss(steps, torch.tensor([[1]]), *lengths)


class Wrapped(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.a, self.b, self.c, self.form = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3), form

    def forward(self, x):
        return self.form(self.c(self.b(self.a(x))))


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (aligned, r'cannot be differentiated twice .*; take a score of first .* "snip"'),
        (lambda out: {"logits": out}, "divides the logits by 200, and the model returns dict"),
    ],
)
def test_what_has_no_gradient_flow_is_said(form, says):
    data = [(torch.randn(4, 4), torch.randint(3, (4,)))]

    def loss(out, y):
        return cross_entropy(out["logits"] if isinstance(out, dict) else out, y)

    with pytest.raises(sl.SparselthError, match=says):
        sl.find_masks(Wrapped(form), score="grasp", data=data, loss=loss)
    assert sl.find_masks(Wrapped(form), score="snip", data=data, loss=loss)
