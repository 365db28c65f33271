"""Channel selection by LASSO: which inputs of a layer its output can be rebuilt from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .context import ScoreContext, needs
from .layer_inputs import layer_inputs

# Penalties from the first at which no channel is in, down to this share of it, at equal ratios.
_STEPS, _LEAST = 60, 1e-4
# Sweeps over the channels at each penalty, and the change below which they end.
_SWEEPS, _SETTLED = 300, 1e-5


@needs("data", unit="channel")
def lasso(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score an input channel by the largest penalty at which LASSO still takes it.

    Of each layer's output Y = sum_i b_i X_i W_i^T at b = 1 that minimizes |Y - sum_i b_i X_i
    W_i^T|^2 / 2 + a |b|_1, over all penalties a, relative to the one that takes none. The paper
    searches the penalty that leaves the wanted number of channels; this is the order in which they
    come in. `reconstruct` refits what is left by least squares, as the paper's second step.
    Ten positions of each example are looked at.

    Raises SparselthError for layers other than Conv2d of one group and Linear (Conv1d and Conv3d
    too), for no batch, and where a layer gives zero for all data.

    Reference: He et al. 2017, "Channel pruning", arXiv:1707.06168, equation 2.
    """
    assert context.data is not None
    inputs: dict[str, Tensor] = {}
    for name, rows in layer_inputs(context.model, weights, context.data, context.masks):
        products = rows.flatten(1).T @ rows.flatten(1)
        inputs[name] = inputs[name] + products if name in inputs else products
    return {name: _order(_gram(inputs[name], weight)) for name, weight in weights.items()}


def _gram(inputs: Tensor, weight: Tensor) -> Tensor:
    """Return the products of what each two channels contribute to the output, (C_in, C_in).

    inputs: the products of each two places of a patch, (C_in * taps, C_in * taps).
    """
    filters = weight.double().reshape(*weight.shape[:2], -1)
    flat = filters.flatten(1)
    channels, taps = filters.shape[1:]
    # sum_o (x_i w_oi)(x_j w_oj), over all samples.
    products = inputs * (flat.T @ flat)
    return products.view(channels, taps, channels, taps).sum((1, 3))


def _order(gram: Tensor) -> Tensor:
    """Return the share of the largest penalty at which each channel comes in, (C_in,)."""
    device, gram = gram.device, gram.cpu()
    target = gram.sum(1)  # the products of each with the whole output
    most = float(target.abs().max())
    entered = torch.zeros_like(target)
    taken = torch.zeros_like(target)
    diagonal = gram.diagonal()
    for step in range(_STEPS + 1 if most else 0):
        share = _LEAST ** (step / _STEPS)
        _descend(gram, target, diagonal, taken, share * most)
        entered = torch.where((taken != 0) & (entered == 0), share, entered)
    # Those that come in at the same step: by what they were taken with.
    tie = taken.abs() / taken.abs().max().clamp(min=1e-300)
    return (entered * (1 + 1e-3 * tie)).to(device)


def _descend(gram: Tensor, target: Tensor, diagonal: Tensor, taken: Tensor, penalty: float) -> None:
    """Minimize over `taken` by coordinate descent, in place, from where it stands."""
    slack = target - gram @ taken
    for _ in range(_SWEEPS):
        most = 0.0
        # Only what is in, or wants in: at high penalties these are few.
        busy = ((taken != 0) | (slack.abs() > penalty)).nonzero().flatten().tolist()
        for i in busy:
            scale = float(diagonal[i])
            if scale == 0:
                continue
            before = float(taken[i])
            free = float(slack[i]) + scale * before
            after = max(abs(free) - penalty, 0.0) / scale * (1 if free > 0 else -1)
            if after != before:
                slack -= gram[i] * (after - before)
                taken[i] = after
                most = max(most, abs(after - before))
        if most < _SETTLED:
            return
