"""Scores from the gradient of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from ..processes import sum_over_processes
from .context import ScoreContext, needs


@needs("data", "loss")
def snip(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by what the loss would change if it were scaled: |w dL/dw|.

    With a factor c on each weight, |dL/dc| at c = 1. L is the mean over all batches of `data`, each
    counted by its first dimension; batch norms take the statistics of the batch, as in training.
    The paper divides by the sum of all scores, which changes no ranking. It scores an
    initialization, by one batch; of a trained network see `taylor`.

    Raises SparselthError for no batch, a batch that is no pair, and a loss that is not a finite
    scalar.

    Reference: Lee et al. 2019, arXiv:1810.02340, section 4.1.
    """
    return {name: weights[name] * grad for name, grad in context.gradients(weights).items()}


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
    assert context.data is not None
    context = replace(context, data=list(context.data))  # read twice
    gradients = context.gradients(weights, temperature=_TEMPERATURE)
    return context.hessian_product(weights, gradients, temperature=_TEMPERATURE)


@needs("data", "loss")
def taylor(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a weight by what removing it costs each batch, to first order: (w dL/dw)^2.

    The root of the mean over batches of the squares, each batch with a gradient of its own: near a
    minimum those of the batches cancel, and `snip`, of the mean gradient, sees little. Batch norms
    take the statistics of the batch. With a pattern of groups, the sum over a group's weights.

    Raises SparselthError as `snip` does.

    Reference: Molchanov et al. 2019, arXiv:1906.10771, equation 8.
    """
    return _root_mean_square(
        ({name: weights[name] * gradient for name, gradient in gradients.items()}, size)
        for gradients, size in context.gradients_by_batch(weights)
    )


@needs("data", "loss", unit="filter")
def taylor_filter(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by what removing all of it costs each batch: (sum of w dL/dw)^2.

    As `taylor`, where contributions of opposite signs within a filter cancel: that of a gate on the
    filter's output.

    Raises SparselthError as `snip` does.

    Reference: Molchanov et al. 2019, arXiv:1906.10771, section 3.2 (gates); 2017, arXiv:1611.06440.
    """

    def effects(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        products = {name: weights[name] * gradient for name, gradient in gradients.items()}
        return {name: context.filters(name, p).sum(1) for name, p in products.items()}

    batches = context.gradients_by_batch(weights)
    return _root_mean_square((effects(gradients), size) for gradients, size in batches)


def _root_mean_square(batches: Iterable[tuple[Mapping[str, Tensor], int]]) -> dict[str, Tensor]:
    """Return the root of the mean of squares, each batch counted by its size, in float64."""
    sums: dict[str, Tensor] = {}
    count = 0
    for values, size in batches:
        count += size
        for name, value in values.items():
            square = value.double().square() * size
            sums[name] = sums[name] + square if name in sums else square
    count = sum_over_processes(sums.values(), count)
    return {name: (total / count).sqrt() for name, total in sums.items()}
