"""Scores of filters by what they give on data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...errors import SparselthError
from ..processes import sum_over_processes
from .context import ScoreContext, needs


def _mean(
    weights: Mapping[str, Tensor], context: ScoreContext, of: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the mean over all examples of `of` (name, map): (N, C) -> (C,), in float64."""
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(weights, 0)
    for name, found in context.activations(weights):
        total = of(name, found).double().sum(0)
        sums[name] = sums[name] + total if name in sums else total
        counts[name] += len(found)
    for name in weights:
        counts[name] = sum_over_processes([sums[name]], counts[name])
    return {name: sums[name] / counts[name] for name in weights}


@needs("data", unit="filter")
def hrank(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by the mean rank of its feature maps, as matrices, after the activation.

    The authors take five batches of 128 training images.

    Raises SparselthError for a layer whose maps are no matrices, and as `ScoreContext.activations`
    does.

    Reference: Lin et al. 2020, arXiv:2002.10179, equation 4.
    """

    def rank(name: str, found: Tensor) -> Tensor:
        if found.dim() != 4 or min(found.shape[2:]) < 2:
            raise SparselthError(
                "hrank takes the rank of feature maps (N, C, H, W) with H and W above 1, and those "
                f"of {name!r} are {tuple(found.shape)}; exclude it"
            )
        return torch.linalg.matrix_rank(found)

    return _mean(weights, context, rank)


@needs("data", unit="filter", signed=True)
def dropnet(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by the mean of what it gives after the activation, without magnitudes.

    Those of lowest mean go first. With allocation="global" the paper's "minimum", else its
    "minimum layer"; its nodes are the outputs of a linear layer. The loop around it, a fifth
    pruned and the rest put back to the initialization each time, is `find_ticket`'s rounds.

    Raises SparselthError as `ScoreContext.activations` does.

    Reference: Tan & Motani 2020, "DropNet", ICML.
    """
    return _mean(weights, context, lambda _, found: _flat(found).mean(2))


@needs("data", unit="filter")
def mean_activation(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by the mean magnitude of what it gives after the activation.

    With ReLU that of `dropnet`; with activations below zero, such as GELU, their size counts.

    Raises SparselthError as `ScoreContext.activations` does.

    Reference: Molchanov et al. 2017, arXiv:1611.06440, section 2.2 (activation).
    """
    return _mean(weights, context, lambda _, found: _flat(found).abs().mean(2))


@needs("data", unit="filter")
def apoz(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by how often it gives anything but zero after the activation.

    One minus the average percentage of zeros.

    Raises SparselthError as `ScoreContext.activations` does.

    Reference: Hu et al. 2016, arXiv:1607.03250, equation 1.
    """
    return _mean(weights, context, lambda _, found: (_flat(found) != 0).double().mean(2))


@needs("data", "norms", unit="filter")
def bn_scale(weights: Mapping[str, Tensor], context: ScoreContext) -> Mapping[str, Tensor]:
    """Score a filter by the magnitude of the batch norm's scale that follows: |gamma|.

    The paper trains with an L1 penalty on the scales first and prunes with allocation="global".
    The norm that follows a layer is found in a forward of the first x of `data`.

    Raises SparselthError as `ScoreContext.norms` does.

    Reference: Liu et al. 2017, "network slimming", arXiv:1708.06519, section 3.
    """
    return {name: _scale(norm) for name, norm in context.norms(weights).items()}


def _scale(norm: nn.Module) -> Tensor:
    assert isinstance(norm.weight, Tensor)
    return norm.weight.detach()


# How many equal parts the range of a filter's pooled outputs is cut into.
_BINS = 16


@needs("data", unit="filter")
def conditional_entropy(
    weights: Mapping[str, Tensor], context: ScoreContext
) -> Mapping[str, Tensor]:
    """Score a filter by what it says that no other filter of its layer does: min_j H(i | j), nats.

    Outputs after the activation are averaged over each example's map and put into 16 bins of equal
    width per filter; entropies are those of the counts. The filter that the others tell most about
    goes first, is taken out, and the rest are looked at again: of two copies one stays.

    An interpretation: the paper leaves the estimator open. Wants many examples, some hundreds.

    Raises SparselthError as `ScoreContext.activations` does.

    Reference: Min et al. 2018, "2PFPCE", arXiv:1809.02220.
    """
    pooled: dict[str, list[Tensor]] = {name: [] for name in weights}
    for name, found in context.activations(weights):
        pooled[name].append(_flat(found).double().mean(2))
    return {name: _told_by_others(torch.cat(parts)) for name, parts in pooled.items()}


def _told_by_others(outputs: Tensor) -> Tensor:
    """Return the scores of filters by their outputs (examples, filters)."""
    low, high = outputs.aminmax(dim=0)
    width = torch.where(high > low, high - low, 1.0)
    bins = ((outputs - low) / width * _BINS).long().clamp(max=_BINS - 1)
    together = _together(nn.functional.one_hot(bins, _BINS).flatten(1).double())
    given = together - together.diagonal()  # H(i, j) - H(j) = H(i | j)
    given = given.clamp(min=0).fill_diagonal_(torch.inf)
    scores, least = together.diagonal().clone(), 0.0
    left = torch.ones_like(scores, dtype=torch.bool)
    for _ in range(len(scores) - 1):
        told = given.amin(1)
        first = int(told.argmin())
        least = max(least, float(told[first]))  # whoever goes later ranks no lower
        scores[first], left[first] = least, False
        given[first], given[:, first] = torch.inf, torch.inf
    scores[left] = scores[left].clamp(min=least)  # the last one tells all that it has
    return scores


# Joint counts of so many pairs of bins at once: 64 MB, however many filters there are.
_AT_ONCE = 2**23


def _together(hot: Tensor) -> Tensor:
    """Return H(i, j) of each two filters.  hot: (examples, filters * bins), of 0 and 1."""
    count = hot.shape[1] // _BINS
    rows = max(_AT_ONCE // (count * _BINS**2), 1)
    parts = []
    for part in hot.split(rows * _BINS, 1):
        joint = (part.T @ hot / len(hot)).view(-1, _BINS, count, _BINS)
        parts.append(torch.special.entr(joint).sum((1, 3)))
    return torch.cat(parts)


def _flat(found: Tensor) -> Tensor:
    """Return maps (N, C, ...) as (N, C, positions)."""
    return found.flatten(2) if found.dim() > 2 else found.unsqueeze(2)
