"""Compaction: the same outputs from fewer channels, and what has to stay is told."""

import copy
import warnings

import pytest
import torch
from support.compacting import count, randomized, same_outputs
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune

import sparselth as sl

pytest.importorskip("torch_pruning", reason="it finds which channels go together")


def vgg():
    torch.manual_seed(0)
    return randomized(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10), nn.ReLU()),
            nn.Linear(10, 4),
        )
    )


class Block(nn.Module):
    def __init__(self, stride=1, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(8, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 8, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(), Block(width=6))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.blocks(torch.relu(self.bn(self.stem(x))))
        return self.head(x.mean((2, 3)))


def resnet():
    torch.manual_seed(0)
    return randomized(ResNet())


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
DATA = [(X, torch.tensor([0, 1, 2, 3]))]


@pytest.mark.parametrize("build", [vgg, resnet])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("score", ["magnitude", "l2", "snip"])
def test_coupled_masks_leave_with_all_that_they_prune(build, allocation, score):
    model = build()
    masks = sl.find_masks(
        model, score=score, sparsity=0.5, pattern="coupled", allocation=allocation,
        data=DATA, loss=cross_entropy,
    )  # fmt: skip
    sl.sparsify(model, masks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = sl.compact(model, X)
    same_outputs(model, small, X)
    assert count(small) < 0.75 * count(sl.densify(copy.deepcopy(model)))
    assert not any(isinstance(m, sl.nn.MaskedModule) for m in small.modules())
    assert not sl.masks_of(small)


def test_sizes_are_what_is_left():
    model = vgg()
    with torch.no_grad():
        model[3].weight[:, [1, 4]] = 0  # nothing takes these of the first
        model[7].weight[:, 5] = 0
        model[10].weight[:, 8:12] = 0  # the third map of 2x2
    small = sl.compact(model, X)
    assert (small[0].out_channels, small[3].in_channels) == (6, 6)
    assert (small[3].out_channels, small[7].in_channels) == (11, 11)
    assert (small[7].out_channels, small[10].in_features) == (5, 20)
    assert small[1].num_features == 6
    assert model[0].out_channels == 8
    same_outputs(model, small, X)


def test_what_only_fed_the_dead_is_dead_as_well():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).eval()
    with torch.no_grad():
        model[4].weight[:, 1] = 0
        model[2].weight[[0, 2, 3], 3] = 0  # the fourth of the first feeds that one alone
    small = sl.compact(model, X)
    assert [small[i].out_channels for i in (0, 2, 4)] == [3, 3, 2]
    same_outputs(model, small, X)


def test_a_constant_goes_into_the_bias_where_nothing_is_padded():
    model = vgg()
    with torch.no_grad():
        model[3].weight[2] = 0  # its norm makes a constant of it, and the next is unpadded
        model[3].bias[2] = 0
        model[4].bias[2] = 3.0
        model[10].weight[5], model[10].bias[5] = 0, 0
    small = sl.compact(model, X)
    assert (small[3].out_channels, small[10].out_features) == (11, 9)
    same_outputs(model, small, X, tolerance=1e-6)  # the bias is rounded


def test_a_filter_that_is_shifted_from_zero_stays_and_is_told():
    model = vgg()
    with torch.no_grad():
        model[0].weight[:2], model[0].bias[:2] = 0, 0
        model[1].running_mean[:2] = 0
        model[1].bias[0], model[1].bias[1] = 0.5, -0.5  # the ReLU makes zero of the second
    with pytest.warns(UserWarning, match=r"zero stay in the model: 1 of 0.weight \(what follows"):
        small = sl.compact(model, X)
    assert small[0].out_channels == 7
    same_outputs(model, small, X)


def test_what_a_comparison_hides_is_no_constant():
    class Positive(nn.Module):
        def forward(self, x):
            return torch.where(x > 0, x, 0)  # gives zero for NaN

    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), Positive(), nn.Conv2d(4, 5, 1), Positive(), nn.Conv2d(5, 2, 1)
    ).eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, -1
        model[4].weight[:, 2] = 0
    small = sl.compact(model, X)
    assert (small[0].out_channels, small[2].out_channels) == (3, 4)
    same_outputs(model, small, X)


def test_one_channel_always_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.warns(UserWarning, match=r"2 of 2.weight \(no layer takes them: they are outputs"):
        small = sl.compact(model, X)
    assert small[0].out_channels == 1
    same_outputs(model, small, X)


def test_a_residual_stream_goes_only_together():
    model = resnet()
    with torch.no_grad():
        for layer in (model.blocks[0].conv1, model.blocks[1].conv1):
            layer.weight[:, 3] = 0
    assert sl.compact(model, X).stem.out_channels == 8  # the head still takes it
    with torch.no_grad():
        model.head.weight[:, 3] = 0
    small = sl.compact(model, X)
    assert small.stem.out_channels == 7
    assert [block.conv2.out_channels for block in small.blocks] == [7, 7]
    same_outputs(model, small, X)


def test_layers_normed_over_channels_keep_them():
    model = nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 3)
    ).eval()
    with torch.no_grad():
        model[2].weight[:, 2] = 0  # behind the norm: taking it out would change the others
        model[4].weight[:, [1, 2, 3]] = 0
    x = torch.randn(5, 6)
    small = sl.compact(model, x)
    assert (small[0].out_features, small[2].out_features) == (8, 7)
    same_outputs(model, small, x)


def test_a_sparse_model_and_its_modes_are_left_as_they_were():
    model = vgg().train()
    sl.sparsify(model, sl.find_masks(model, pattern="channel", sparsity=0.5))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = sl.compact(model, X)
    assert model.training
    assert small.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in small.parameters())
    same_outputs(model.eval(), small.eval(), X)
    cross_entropy(small.train()(X), DATA[0][1]).backward()
    assert all(p.grad is not None for p in small.parameters())


def test_types_modes_frozen_parameters_and_randomness():
    model = vgg().to(torch.bfloat16).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[3].bias.grad = torch.ones_like(model[3].bias)
    with torch.no_grad():
        model[3].weight[:, 2] = 0
    called = []
    model[3].register_forward_hook(lambda *_: called.append(1))
    before = torch.get_rng_state()
    small = sl.compact(model, X.to(torch.bfloat16))
    assert torch.equal(torch.get_rng_state(), before)
    assert small[0].out_channels == 7
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert [m.training for m in small] == [m.training for m in model]
    wanted = [p.requires_grad for p in model.parameters()]
    assert [p.requires_grad for p in small.parameters()] == wanted
    assert wanted.count(False) == 1
    assert all(p.grad is None for p in small.parameters())
    assert model[3].bias.grad is not None
    assert len(model[3]._forward_hooks) == 1


class Two(nn.Module):
    """Two inputs, one of them whole numbers, and outputs in a mapping."""

    def __init__(self, hidden_too):
        super().__init__()
        self.hidden_too = hidden_too
        self.look_up, self.fc = nn.Embedding(9, 4), nn.Linear(6, 4)
        self.hidden, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, words, x, scale=1.0):
        y = torch.relu(self.hidden(self.look_up(words) + self.fc(x)))
        others = (y.mean() if self.hidden_too else x, None)
        return {"y": self.out(y) * scale, "others": others}


@pytest.mark.filterwarnings("ignore:filters that are zero stay")
@pytest.mark.parametrize(("hidden_too", "left"), [(True, 8), (False, 6)])
@pytest.mark.parametrize("form", [tuple, dict])
def test_several_inputs_and_outputs(form, hidden_too, left):
    torch.manual_seed(0)
    model = Two(hidden_too).eval()
    with torch.no_grad():
        model.hidden.weight[5], model.hidden.bias[5] = 0, -1
        model.out.weight[:, 1] = 0
    inputs = {"words": torch.tensor([1, 8]), "x": torch.randn(2, 6), "scale": torch.tensor(2.0)}
    small = sl.compact(model, inputs if form is dict else tuple(inputs.values()))
    assert small.hidden.out_features == left
    torch.testing.assert_close(small(**inputs), model(**inputs))


def test_what_torch_prunes_itself():
    model = vgg()
    prune.ln_structured(model[3], "weight", 0.5, n=2, dim=1)
    model(X)  # its weight has a history now, which no copy takes
    small = sl.compact(model, X)
    assert small[0].out_channels == 4
    assert "weight_mask" in dict(model[3].named_buffers())
    assert not any("mask" in name for name in small.state_dict())
    torch.testing.assert_close(small(X), model(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "example", "says"),
    [
        (vgg(), torch.randn(2, 5, 8, 8), "cannot be called with the example"),
        (vgg, X, "model must be a torch.nn.Module"),
    ],
)
def test_bad_input(model, example, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            sl.compact(model, example)


def test_without_torch_pruning_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    for call in (
        lambda: sl.compact(vgg(), X),
        lambda: sl.find_masks(vgg(), pattern="coupled", data=DATA),
    ):
        with pytest.raises(sl.SparselthError, match=r"pip install 'sparselth\[compact\]'"):
            call()
