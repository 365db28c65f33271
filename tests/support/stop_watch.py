"""A stop watch that says what a test tells it, and a layer to choose for."""

import torch
from torch import nn

import sparselth as sl
from sparselth.ops.kernel_choice.measure_cpu import PASSES, PassTiming, Timings


class Fake:
    """Stands in for the stop watch: `sparse` and `dense` milliseconds for each pass."""

    def __init__(self):
        self.calls = 0
        self.sparse, self.dense = (1.0, 1.0, 1.0), (9.0, 9.0, 9.0)
        self.dense_for = lambda weight: False
        self.noise = 0.0

    def __call__(self, _size, weight, *args, **kwargs):
        self.calls += 1
        dense = (0.1, 0.1, 0.1) if self.dense_for(weight) else self.dense
        pairs = zip(PASSES, self.sparse, dense, strict=True)
        return Timings({name: PassTiming(s, d, noise=self.noise) for name, s, d in pairs})


def masked_conv(density=0.5, dtype=torch.float32, **options):
    conv = nn.Conv2d(4, 6, 3, **{"padding": 1, **options}).to(dtype)
    mask = torch.rand_like(conv.weight) < density
    return sl.sparsify(conv, {"weight": mask})


X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1))
