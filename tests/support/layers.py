"""Layers that can have a mask, each beside the dense one that it is to compute as."""

import copy

import torch
from torch import nn

import sparselth as sl

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2), (2, 4, 9)),
    "conv1d, circular": (
        lambda: nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular", groups=2),
        (2, 4, 9),
    ),
    "conv2d, 1x1": (lambda: nn.Conv2d(4, 6, 1), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, (1, 3, 2), padding=1), (2, 4, 3, 5, 4)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 5)),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, output_padding=1, stride=2),
        (2, 4, 5, 5),
    ),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 2, groups=2), (2, 4, 3, 3, 3)),
}


def masked_pair(make, keep=0.4):
    """Return a sparse model of one layer, its dense twin with the zeros in place, and the mask."""
    torch.manual_seed(0)
    model = nn.Sequential(make())
    dense = copy.deepcopy(model)
    mask = torch.rand_like(model[0].weight) < keep
    with torch.no_grad():
        dense[0].weight.mul_(mask)
    return sl.sparsify(model, {"0.weight": mask}), dense, mask


class OwnForward(nn.Conv2d):
    """A layer whose forward a mask cannot see into."""

    def forward(self, x):
        return super().forward(x * 2)
