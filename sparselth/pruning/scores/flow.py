"""SynFlow: a score of the network alone, without data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...checks import called, kind
from ...errors import SparselthError
from .batches import first_input
from .context import ScoreContext, needs
from .running import WithValues, eagerly


@needs("data", steps=100)
def synflow(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by the synaptic flow through it: |w| dR/d|w|, R the sum of the outputs.

    R is that of the network with the magnitudes of all its parameters and buffers, for an input of
    ones, in float64 and evaluation mode. Without biases and norms the scores of each layer add up
    to the same, so that pruning in steps (100 by default) empties no layer while others have
    weights to spare.
    Of `data` the first x is read, for its shape alone.

    Raises SparselthError for no batch, and where the flow is not finite, or is zero everywhere.

    Reference: Tanaka et al. 2020, arXiv:2006.05467, equation 2 and algorithm 1.
    """
    assert context.data is not None
    x = first_input(context.data)
    model = context.model.eval()
    state = {
        name: tensor.detach().abs().double() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    ranked = {name: state[name].requires_grad_() for name in weights}
    used = {name: torch.where(mask, state[name], 0.0) for name, mask in context.masks.items()}
    ones = torch.ones((1, *x.shape[1:]), dtype=torch.float64, device=x.device)
    run = WithValues(model, lambda: state | used)
    with eagerly():
        out = called(run, [ones], "an input of ones in float64")
    if not isinstance(out, Tensor):
        raise SparselthError(f"synflow adds up what the model returns, a tensor; got {kind(out)}")
    flow = out.sum()
    if not bool(torch.isfinite(flow)) or not bool(flow):
        raise SparselthError(
            f"the synaptic flow through the model is {flow.item()}, which ranks nothing: it is too "
            "deep or too wide for float64, or nothing reaches its output"
        )
    grads = torch.autograd.grad(flow, list(ranked.values()), allow_unused=True)
    return {
        name: torch.zeros_like(w) if grad is None else (w * grad).detach()
        for (name, w), grad in zip(ranked.items(), grads, strict=True)
    }
