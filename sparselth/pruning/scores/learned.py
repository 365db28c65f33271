"""Learned filter pruning criteria: which criterion fits which layer, found on data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .context import Score, ScoreContext, needs
from .filters import fpgm, l1, l2
from .gates import GatedLoss

CRITERIA: dict[str, Score] = {"l1": l1, "l2": l2, "fpgm": fpgm}

# Steps of the search, the rate of Adam, and the temperature of the first and the last samples.
_STEPS, _RATE, _WARM, _COLD = 200, 0.05, 1.0, 0.1


@needs("data", "loss", "kept", unit="filter")
def lfpc(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score filters by the criterion that prunes their layer best: "l1", "l2" or "fpgm".

    All layers at once: each map is gated by the criteria's masks, mixed by a sample of the
    Gumbel-softmax of the layer's logits; the loss on one batch of `data` after another trains the
    logits by Adam, 200 steps, the temperature going from 1 to 0.1. Weights do not change. The
    criterion of the largest logit ranks the layer. `data` should not be what the model was trained
    on. The paper's sampler and its rate are not published; the cost of a layer is fixed here by
    the sparsity, so that its penalty on FLOPs is left out.

    Raises SparselthError as `snip` does, and with allocation="global".

    Reference: He et al. 2020, "Learning filter pruning criteria", CVPR, section 3.2.
    """
    chosen = chosen_criteria(weights, context)
    scores = {name: criterion(weights, context) for name, criterion in CRITERIA.items()}
    return {name: scores[chosen[name]][name] for name in weights}


def chosen_criteria(weights: Mapping[str, Tensor], context: ScoreContext) -> dict[str, str]:
    """Return the criterion that `lfpc` learns for each weight's layer, by name."""
    assert context.data is not None
    assert context.loss is not None
    assert context.kept is not None
    loss = GatedLoss(context.model, context.loss, context.data, weights, context.masks)
    masks = {name: _masks(name, weights, context) for name in weights}
    logits = {
        name: torch.zeros(len(m), dtype=m.dtype, device=m.device, requires_grad=True)
        for name, m in masks.items()
    }
    optimizer = torch.optim.Adam(logits.values(), lr=_RATE)
    for step in range(_STEPS):
        heat = _WARM * (_COLD / _WARM) ** (step / (_STEPS - 1))
        gates = {
            name: torch.nn.functional.gumbel_softmax(logits[name], tau=heat) @ masks[name]
            for name in weights
        }
        grads = torch.autograd.grad(loss.of(gates, step), list(logits.values()))
        for tensor, grad in zip(logits.values(), grads, strict=True):
            tensor.grad = grad
        optimizer.step()
    names = list(CRITERIA)
    return {name: names[int(tensor.argmax())] for name, tensor in logits.items()}


def _masks(name: str, weights: Mapping[str, Tensor], context: ScoreContext) -> Tensor:
    """Return what each criterion keeps of a weight's filters, (criteria, C_out) of 0 and 1."""
    assert context.kept is not None
    rows = []
    for criterion in CRITERIA.values():
        scores = criterion({name: weights[name]}, context)[name]
        order = scores.argsort(descending=True, stable=True)
        rows.append(torch.zeros_like(scores))
        rows[-1][order[: context.kept[name]]] = 1
    return torch.stack(rows)
