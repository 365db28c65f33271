"""Scores from the gradient of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import called, kind
from ...errors import SparselthError
from .context import Batch, ScoreContext, WithValues, needs


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


@needs("data", "loss", signed=True)
def grasp(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by the gradient flow it carries: w (H g), the largest values stay.

    g is the gradient of the mean loss over all batches and H its Hessian: to first order, removing
    w changes g^T g by -2 w (H g). What is removed first are weights without which the gradient
    grows. Logits are divided by 200 as the authors' code does. The score of the paper is -w (H g),
    of which it removes the largest.

    Raises SparselthError as `snip` does.

    Reference: Wang et al. 2020, arXiv:2002.07376, section 4.
    """
    return {name: weights[name] * product for name, product in _flow(weights, context).items()}


@needs("data", "loss")
def grasp_abs(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by |w (H g)|: what changes the gradient flow most, either way, stays.

    Raises SparselthError as `snip` does.

    Reference: Frankle et al. 2021, arXiv:2009.08576, which finds it better than `grasp`.
    """
    return {name: weights[name] * product for name, product in _flow(weights, context).items()}


# What logits are divided by in GraSP, in the authors' code.
_TEMPERATURE = 200.0


def _flow(weights: Mapping[str, Tensor], context: ScoreContext) -> dict[str, Tensor]:
    """Return H g of the mean loss over all batches, parameter name -> tensor."""
    batches = list(_checked(context))  # read twice
    total = gradients(weights, context, batches, _TEMPERATURE)
    parameters, model = _left(weights, context)
    products = {name: torch.zeros_like(g) for name, g in total.items()}
    count = 0
    for number, (x, y) in enumerate(batches):
        loss, size = _loss(context, model, number, x, y, _TEMPERATURE)
        grads = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        pairs = [(g, t) for g, t in zip(grads, total.values(), strict=True) if g is not None]
        flow = torch.stack([(g * t).sum() for g, t in pairs]).sum()
        count += size
        if not flow.requires_grad:
            continue  # the gradient depends on no weight: H is zero
        again = torch.autograd.grad(flow, parameters, allow_unused=True)
        for product, grad in zip(products.values(), again, strict=True):
            if grad is not None:
                product.add_(grad, alpha=size)
    return {name: product / count for name, product in products.items()}


def gradients(
    weights: Mapping[str, Tensor],
    context: ScoreContext,
    batches: Iterable[Batch] | None = None,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Return dL/dw of the mean loss over all batches, parameter name -> tensor; in training mode.

    weights: whose gradients. Zero where the loss does not depend on one. Those of 16-bit weights
    are summed, and returned, in float32.  batches: those of the context when None.  temperature:
    what the logits are divided by.
    """
    parameters, model = _left(weights, context)
    wide = [torch.promote_types(weight.dtype, torch.float32) for weight in weights.values()]
    sums = [torch.zeros_like(w, dtype=d) for w, d in zip(weights.values(), wide, strict=True)]
    count = 0
    for number, (x, y) in enumerate(_checked(context) if batches is None else batches):
        loss, size = _loss(context, model, number, x, y, temperature)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, grad in zip(sums, grads, strict=True):
            if grad is not None:
                total.add_(grad, alpha=size)
        count += size
    if not count:
        raise SparselthError("data holds no batch; a score of gradients wants at least one")
    return {name: total / count for name, total in zip(weights, sums, strict=True)}


def _left(
    weights: Mapping[str, Tensor], context: ScoreContext
) -> tuple[list[nn.Parameter], nn.Module]:
    """Return the parameters, and the model in training mode without what is pruned already."""
    model = context.model.train()
    parameters = {name: model.get_parameter(name) for name in weights}
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            raise SparselthError(f"{name} takes no gradient; set its requires_grad to score it")
    masks = {name: mask for name, mask in context.masks.items() if name in parameters}

    def values() -> dict[str, Tensor]:
        return {name: torch.where(mask, parameters[name], 0.0) for name, mask in masks.items()}

    return list(parameters.values()), WithValues(model, values) if masks else model


def _checked(context: ScoreContext) -> Iterator[Batch]:
    assert context.data is not None
    for number, batch in enumerate(context.data):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise SparselthError(f"batch {number} of data must be a pair (x, y), got {kind(batch)}")
        yield batch[0], batch[1]


def _loss(
    context: ScoreContext, model: nn.Module, number: int, x: Any, y: Any, temperature: float
) -> tuple[Tensor, int]:
    """Return the loss of a batch, a scalar, and how many it counts for."""
    assert context.loss is not None
    out = called(model, [x], f"the x of batch {number}")
    loss = context.loss(out if temperature == 1 else out / temperature, y)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not bool(torch.isfinite(loss)):
        raise SparselthError(
            f"the loss of batch {number} must be a finite scalar, got {_told(loss)}"
        )
    if not loss.requires_grad:
        raise SparselthError(f"the loss of batch {number} does not depend on any weight")
    return loss.reshape(()), len(x) if isinstance(x, Tensor) and x.dim() else 1


def _told(loss: object) -> str:
    if isinstance(loss, Tensor):
        return str(loss.item()) if loss.numel() == 1 else f"a tensor of shape {tuple(loss.shape)}"
    return kind(loss)
