"""Networks whose activations travel in lanes, and a step of them against the dense reference."""

import copy
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn

import sparselth as sl


def conv(inputs, outputs, kernel=3, stride=1, bias=False, **options):
    options = {"padding": kernel // 2, **options}
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, bias=bias, **options)


class Residual(nn.Module):
    """A residual block as user code writes it: with or without downsampling, `+` or `+=`."""

    def __init__(self, inputs, outputs, stride=1, inplace=True, accumulate=False):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=inplace)
        self.accumulate = accumulate
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.accumulate:
            out += self.downsample(x)
        else:
            out = self.downsample(x) + out
        return self.relu(out)


class Excite(nn.Module):
    """Channel attention and a dropout: ops without a handler in the middle of a network."""

    def forward(self, x):
        return F.dropout(x * torch.sigmoid(x.mean((2, 3), keepdim=True)), 0.0)


def head(channels):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


NETS = {
    "plain": lambda: nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6, 5, 2), *head(6)
    ),
    "without batch norm": lambda: nn.Sequential(
        conv(3, 8, bias=True), nn.ReLU(True), conv(8, 6, 1, bias=True), nn.ReLU(), *head(6)
    ),
    "residual": lambda: nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), Residual(8, 8), Residual(8, 8), *head(8)
    ),
    "downsampling": lambda: nn.Sequential(
        conv(3, 8), Residual(8, 12, 2, inplace=False), Residual(12, 12, inplace=False), *head(12)
    ),
    "accumulating": lambda: nn.Sequential(
        conv(3, 8), Residual(8, 8, accumulate=True), Residual(8, 6, 2, accumulate=True), *head(6)
    ),
    "pooling": lambda: nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2)),
        *(conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)),
        *(conv(8, 8, groups=2), nn.BatchNorm2d(8, affine=False), nn.ReLU(True), *head(8)),
    ),
    "other ops": lambda: nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(True), Excite()),
        *(conv(8, 8, padding_mode="reflect"), nn.BatchNorm2d(8, momentum=None), nn.SiLU(True)),
        *(conv(8, 8, padding="same", dilation=2), nn.GroupNorm(2, 8), nn.LeakyReLU(0.1, True)),
        *(nn.Dropout2d(0.0), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), *head(8)),
    ),
}


def masks_for(model):
    return {
        f"{name}.weight": torch.rand_like(module.weight) < 0.25
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }


def sparse(model):
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return sl.sparsify(model, masks_for(model))


def images(batch, size=9):
    return torch.randn(batch, 3, size, size, dtype=torch.float64)


def assert_same_step(model, x, step=lambda model, x: model(x)):
    """Compare output, gradients and buffers with those of the dense reference."""
    reference = copy.deepcopy(model)
    results = []
    for twin, backend in ((model, nullcontext()), (reference, sl.use_backend("reference"))):
        inputs = x.clone().requires_grad_()
        twin.zero_grad()
        with backend:
            out = step(twin, inputs)
            out.square().sum().backward()
        grads = [inputs.grad, *(p.grad for p in twin.parameters())]
        results.append([out + 0, *grads, *twin.buffers()])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
