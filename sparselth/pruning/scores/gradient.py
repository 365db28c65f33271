"""Scores from the gradient of the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...checks import called, kind
from ...errors import SparselthError
from .context import ScoreContext, needs


@needs("data", "loss")
def snip(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by what the loss would change if it were scaled: |w dL/dw|.

    With a factor c on each weight, |dL/dc| at c = 1. L is the mean over all batches of `data`, each
    counted by its first dimension; batch norms take the statistics of the batch, as in training.
    The paper divides by the sum of all scores, which changes no ranking. It scores an
    initialization, by one batch; on a trained network this is first-order saliency (Molchanov et
    al. 2017, arXiv:1611.06440).

    Raises SparselthError for no batch, a batch that is no pair, and a loss that is not a finite
    scalar.

    Reference: Lee et al. 2019, arXiv:1810.02340, section 4.1.
    """
    return {name: weights[name] * grad for name, grad in gradients(weights, context).items()}


def gradients(weights: Mapping[str, Tensor], context: ScoreContext) -> dict[str, Tensor]:
    """Return dL/dw of the mean loss over all batches, parameter name -> tensor; in training mode.

    weights: whose gradients. Zero where the loss does not depend on one. Those of 16-bit weights
    are summed, and returned, in float32.
    """
    assert context.data is not None
    assert context.loss is not None
    model = context.model.train()
    parameters = [model.get_parameter(name) for name in weights]
    frozen = [name for name, p in zip(weights, parameters, strict=True) if not p.requires_grad]
    if frozen:
        raise SparselthError(
            f"{frozen[0]} takes no gradient; set requires_grad before it is scored"
        )
    wide = [torch.promote_types(weight.dtype, torch.float32) for weight in weights.values()]
    sums = [torch.zeros_like(w, dtype=d) for w, d in zip(weights.values(), wide, strict=True)]
    count = 0
    for number, batch in enumerate(context.data):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise SparselthError(f"batch {number} of data must be a pair (x, y), got {kind(batch)}")
        x, y = batch
        loss = context.loss(called(model, [x], f"the x of batch {number}"), y)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not bool(torch.isfinite(loss)):
            raise SparselthError(
                f"the loss of batch {number} must be a finite scalar, got {_told(loss)}"
            )
        size = len(x) if isinstance(x, Tensor) and x.dim() else 1
        grads = torch.autograd.grad(loss.reshape(()), parameters, allow_unused=True)
        for total, grad in zip(sums, grads, strict=True):
            if grad is not None:
                total.add_(grad.detach(), alpha=size)
        count += size
    if not count:
        raise SparselthError("data holds no batch; a score of gradients wants at least one")
    return {name: total / count for name, total in zip(weights, sums, strict=True)}


def _told(loss: object) -> str:
    if isinstance(loss, Tensor):
        return str(loss.item()) if loss.numel() == 1 else f"a tensor of shape {tuple(loss.shape)}"
    return kind(loss)
