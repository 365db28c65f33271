"""Which activation and which norm follow a layer, however the model is written."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparselth as sl
from sparselth.pruning import ScoreContext


class Block(nn.Module):
    """conv, norm, ReLU, conv, norm, added to what came in, ReLU."""

    def __init__(self, inplace=False, written="relu"):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=inplace)
        self.written = written
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.act.inplace:
            out += x
        else:
            out = out + x
        out = {
            "relu": lambda: self.act(out),
            "method": lambda: out.relu(),
            "clamp": lambda: out.clamp(min=0),
            "functional": lambda: F.relu(out, inplace=self.act.inplace),
        }[self.written]()
        return self.head(out.mean((2, 3)))


def x():
    return torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def maps(model, *names, data=None):
    context = ScoreContext(model, [(x(), None)] if data is None else data)
    return dict(context.activations(names))


@pytest.mark.parametrize("written", ["relu", "method", "clamp", "functional"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_residual_block(written, inplace, sparse):
    torch.manual_seed(0)
    model = Block(inplace, written).eval()
    first = F.relu(model.bn1(model.conv1(x())))
    second = F.relu(model.bn2(model.conv2(first)) + x())
    if sparse:
        sl.sparsify(
            model, {n: torch.ones(4, 4, 3, 3) > 0 for n in ("conv1.weight", "conv2.weight")}
        )
    found = maps(model, "conv1.weight", "conv2.weight", "head.weight")
    torch.testing.assert_close(found["conv1.weight"], first)
    torch.testing.assert_close(found["conv2.weight"], second)
    torch.testing.assert_close(found["head.weight"], model(x()))


def test_a_map_without_an_activation_is_the_last_before_channels_are_mixed():
    torch.manual_seed(0)
    bottleneck = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)).eval()
    found = maps(bottleneck, "0.weight", "2.weight")
    torch.testing.assert_close(found["0.weight"], bottleneck[:2](x()))
    torch.testing.assert_close(found["2.weight"], bottleneck(x()))


def test_pooling_on_the_way_and_what_comes_after_do_not_count():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(4, 6, 3), nn.MaxPool2d(2), nn.GELU(), nn.Dropout(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)),
    ).eval()
    found = maps(model, "0.weight", "6.weight")
    torch.testing.assert_close(found["0.weight"], model[:3](x()))
    torch.testing.assert_close(found["6.weight"], model[:8](x()))


def test_tokens_have_their_channels_last():
    model = nn.Sequential(nn.Linear(7, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)).eval()
    tokens = torch.randn(3, 5, 7)
    found = maps(model, "0.weight", data=[tokens])
    torch.testing.assert_close(found["0.weight"], model[:3](tokens).movedim(2, 1))


def test_every_call_of_a_shared_layer_counts():
    conv = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(conv, nn.ReLU(), conv, nn.Sigmoid()).eval()
    context = ScoreContext(model, [(x(), None)])
    first, second = (found for _, found in context.activations(["0.weight"]))
    torch.testing.assert_close(first, model[:2](x()))
    torch.testing.assert_close(second, model(x()))


def test_norms_are_those_that_follow():
    model = Block()
    context = ScoreContext(model, [(x(), None)])
    found = context.norms(["conv1.weight", "conv2.weight"])
    assert found == {"conv1.weight": model.bn1, "conv2.weight": model.bn2}
    sl.sparsify(model, {"conv1.weight": torch.rand(4, 4, 3, 3) < 0.5})
    assert context.norms(["conv1.weight", "conv2.weight"])["conv1.weight"] is model.bn1


def test_a_norm_before_a_layer_is_not_its_norm():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
    context = ScoreContext(model, [(x(), None)])
    with pytest.raises(sl.SparselthError, match=r"no batch norm with a scale follows .* 2\.weight"):
        context.norms(["2.weight"])


class Reads(nn.Module):
    """Uses a weight past its layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return F.linear(x.mean((2, 3)), self.layer.weight)


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        (Reads(), [(x(), None)], "layers of layer.weight give no map"),
        (Block(), [], "data holds no batch"),
        (Block(), [(x() / 0, None)], "NaN or Inf in batch 0"),
        (Block(), [(x()[:, :2], None)], "cannot be called with the x of batch 0"),
    ],
)
def test_what_is_refused(model, data, says):
    name = "layer.weight" if isinstance(model, Reads) else "conv1.weight"
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            maps(model, name, data=data)


def test_nothing_is_left_on_the_model():
    model = Block()
    maps(model, "conv1.weight")
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(sl.SparselthError):
        maps(model, "conv1.weight", data=[(x()[:, :2], None)])
    assert not any(module._forward_hooks for module in model.modules())


class Tied(nn.Module):
    """Two layers of one weight, and an embedding that is the readout's."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 7)
        self.b.weight, self.out.weight = self.a.weight, self.words.weight

    def forward(self, x):
        return self.out(self.b(self.a(self.words(x)).relu()).tanh())


def test_the_layers_that_share_a_weight_all_count():
    model = Tied().eval()
    tokens = torch.randint(7, (3, 5))
    first = model.a(model.words(tokens)).relu()
    context = ScoreContext(model, [tokens])
    found = list(context.activations(["a.weight", "words.weight"]))
    assert [name for name, _ in found] == ["a.weight", "a.weight", "words.weight"]
    torch.testing.assert_close(found[0][1], first.movedim(2, 1))
    torch.testing.assert_close(found[1][1], model.b(first).tanh().movedim(2, 1))
    torch.testing.assert_close(found[2][1], model(tokens).movedim(2, 1))


@pytest.mark.parametrize("score", ["hrank", "dropnet", "bn-scale", "lfpc", "greedy-forward"])
def test_transposed_convolutions_of_groups_have_no_filter_for_each_output(score):
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6), nn.ReLU())
    options = {"data": [(x(), None)], "loss": lambda out, y: out.mean(), "exclude": ()}
    with pytest.raises(sl.SparselthError, match=r"0\.weight is that of a ConvTranspose2d of 2 gr"):
        sl.find_masks(model, score=score, **options)
