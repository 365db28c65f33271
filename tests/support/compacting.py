"""Models that compaction is tried on, and the comparison with what it makes of them."""

import copy

import torch
from torch import nn

import sparselth as sl


def randomized(model):
    """Give norms statistics and scales of their own, as after training."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def same_outputs(model, small, x, tolerance=1e-9):
    """Compare in double precision, on x and random inputs; return how much of outputs varies."""
    whole = sl.densify(copy.deepcopy(model)).double().eval()
    small = copy.deepcopy(small).double().eval()
    others = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        expected, found = (torch.cat([m(x.double()), m(others)]) for m in (whole, small))
    torch.testing.assert_close(
        found, expected, rtol=0, atol=tolerance * float(expected.abs().max())
    )
    return float((expected - expected.mean(0)).abs().max() / expected.abs().max())


def calibrated(model, x):
    """Let norms bring what convolutions give to one scale, lest nothing of x comes to the end."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    model.train()(x)
    return model.eval()


def count(model):
    return sum(p.numel() for p in model.parameters())
