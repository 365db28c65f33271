"""Compaction of models made at random, with channels zeroed at random."""

import random
import warnings

import pytest
import torch
from support.compacting import count, randomized, same_outputs
from torch import nn

import sparselth as sl

pytest.importorskip("torch_pruning", reason="it finds which channels go together")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class RandomNet(nn.Module):
    """Layers at random over one stream: chains, sums, concatenations, gates, depthwise ones."""

    def __init__(self, draw):
        super().__init__()
        self.steps, self.layers = [], nn.ModuleList()
        width = 3
        for _ in range(draw.randint(2, 5)):
            kind = draw.choice(["plain", "plain", "residual", "concat", "gate", "depthwise", "up"])
            out = width if kind in ("residual", "gate") else draw.choice([4, 6])
            made = [self.conv(draw, width, out)]
            if kind == "residual":
                made += [self.conv(draw, out, out)]
            elif kind == "concat":
                made += [self.conv(draw, width, 3)]
            elif kind == "gate":
                made += [nn.Conv2d(width, width, 1)]
            elif kind == "depthwise":
                made += [self.conv(draw, out, out, groups=out)]
            elif kind == "up":
                made += [nn.ConvTranspose2d(out, 5, 2, 2)]
            self.steps.append(kind)
            self.layers.append(nn.ModuleList(made))
            width = {"concat": out + 3, "up": 5}.get(kind, out)
        self.flat = draw.random() < 0.5
        self.head = nn.Sequential(
            nn.Linear(width * (4 if self.flat else 1), 6), nn.ReLU(), nn.Linear(6, 2)
        )

    @staticmethod
    def conv(draw, width, out, groups=1):
        size = draw.choice([1, 3])
        norms = [nn.BatchNorm2d(out), nn.Identity(), nn.InstanceNorm2d(out), nn.GroupNorm(1, out)]
        acts = [nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.Hardswish(), nn.PReLU(out), nn.GELU()]
        norm, act = draw.choices(norms, [6, 3, 1, 0.5])[0], draw.choice(acts)
        padding = size // 2  # the head pools to one size, so that nothing is padded now and then
        layer = nn.Conv2d(width, out, size, 1, padding, groups=groups, bias=draw.random() < 0.5)
        return nn.Sequential(layer, norm, act)

    def forward(self, x):
        for kind, layers in zip(self.steps, self.layers, strict=True):
            y = layers[0](x)
            if kind == "residual":
                x = x + layers[1](y)
            elif kind == "concat":
                x = torch.cat([y, layers[1](x)], 1)
            elif kind == "gate":
                x = x * torch.sigmoid(layers[1](y.mean((2, 3), keepdim=True)))
            else:
                x = layers[1](y) if len(layers) > 1 else y
        x = nn.functional.adaptive_avg_pool2d(x, 2 if self.flat else 1)
        return self.head(x.flatten(1))


@torch.no_grad()
def damage(model, draw):
    """Set outputs, inputs, shifts and scales to zero in random layers."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.mul_(draw.choice([0, 1]))
            module.bias.mul_(draw.choice([0, 1, -1]))
            module.weight[draw.randrange(len(module.weight))] = draw.choice([0, 1])
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            continue
        if module.bias is not None and draw.random() < 0.7:
            module.bias.mul_(draw.choice([0, -1]))
        for axis in (0, 1):
            size = module.weight.shape[axis]
            if draw.random() < 0.4 and size > 1:
                gone = draw.sample(range(size), draw.choice([1, 2, size // 2, size - 1]))
                module.weight.index_fill_(axis, torch.tensor(gone, dtype=torch.int64), 0)


@pytest.mark.filterwarnings("ignore:filters that are zero stay")
@pytest.mark.parametrize("seed", range(12))
def test_random_models_with_random_channels_zeroed(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = randomized(RandomNet(draw)).double()
    damage(model, draw)
    small = sl.compact(model, X.double())
    same_outputs(model, small, X)
    assert count(small) <= count(model) + sum(
        layer.bias.numel()
        for name, layer in small.named_modules()
        if getattr(layer, "bias", None) is not None
        and getattr(model.get_submodule(name), "bias", None) is None
    )


@pytest.mark.parametrize("seed", range(8))
def test_coupled_masks_of_random_models_leave_nothing(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = randomized(RandomNet(draw)).double()
    sl.sparsify(
        model,
        sl.find_masks(
            model,
            sparsity=draw.choice([0.3, 0.5, 0.8]),
            pattern="coupled",
            allocation=draw.choice(["uniform", "global"]),
            data=[(X.double(), None)],
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = sl.compact(model, X.double())
    same_outputs(model, small, X)
    whole = sum(int(p.count_nonzero()) for p in sl.densify(model).parameters() if p.dim() > 1)
    assert whole == sum(p.numel() for p in small.parameters() if p.dim() > 1)
