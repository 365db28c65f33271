"""Multiplications: what each layer takes, and a sparsity that is a share of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import called, check_name
from ..errors import SparselthError
from ..nn.kinds import Site, kind_of, site_names
from .allocation import Sparsity
from .leaving import left_as_it_was
from .scores.batches import first_input

BUDGETS = ("weights", "flops")
"""What a sparsity is a share of."""

# So often the interval of sparsities is halved: to a millionth of the weights and below.
_HALVINGS = 30


@torch.no_grad()
def multiplications(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Count the multiplications of every convolution and linear layer: weight name -> count.

    model: plain or sparse; pruned weights count as any.  x: one input as the model takes it, with a
    batch dimension; the counts are those of the whole batch. The model's modes and buffers, and
    torch's random numbers, are afterwards as they were.

    Raises SparselthError for an input that the model cannot take.
    """
    counts: dict[str, int] = {}
    hooks = []

    def count(name: str, transposed: bool) -> Callable[..., None]:
        def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # (N, C_out, ...) or (N, ..., C_out): each weight serves every place of the output; of
            # the input, where weights are (C_in, C_out, ...).
            served = inputs[0] if transposed else output
            places = served.numel() // layer.weight.shape[0]
            counts[name] = counts.get(name, 0) + layer.weight.numel() * places

        return hook

    for name, layer in model.named_modules():
        kind = kind_of(layer)
        if kind is not None and kind.by_default and kind.base.maskable == ("weight",):
            hook = count(f"{name}.weight" if name else "weight", kind.transposed)
            hooks.append(layer.register_forward_hook(hook))
    try:
        with left_as_it_was(model):
            called(model.eval(), [x], "an input to count by")
    finally:
        for handle in hooks:
            handle.remove()
    return counts


def costs_of(
    model: nn.Module,
    sites: Mapping[str, Site],
    sparsity: Sparsity | None,
    data: Iterable[Any] | None,
) -> dict[str, float]:
    """Return the multiplications that each weight of a layer takes, by name.

    Raises SparselthError where there is no input to count by, no one sparsity, and for layers that
    are not counted.
    """
    if data is None:
        raise SparselthError('budget="flops" counts by an input; pass data=[(x, y)]')
    if sparsity is None or isinstance(sparsity, Mapping):
        raise SparselthError(
            'budget="flops" takes one sparsity, the share of all multiplications to save; shares '
            "by name are the same of a layer's weights and of its multiplications"
        )
    counts: dict[str, int] = {}
    places = site_names(model, sites)
    for name, count in multiplications(model, first_input(data)[:1]).items():
        if name in places:  # a shared weight serves in each of its layers
            counts[places[name]] = counts.get(places[name], 0) + count
    if uncounted := sorted(sites.keys() - counts.keys()):
        raise SparselthError(
            f"the multiplications of {', '.join(uncounted)} are not counted: exclude them, or use "
            'budget="weights"'
        )
    return {name: counts[name] / max(site.slot.numel(), 1) for name, site in sites.items()}


def check_budget(budget: str) -> None:
    """Require one of `BUDGETS`."""
    check_name("budget", budget, BUDGETS)


def least_saving(
    masks_at: Callable[[float], dict[str, Tensor]], costs: Mapping[str, float], share: float
) -> dict[str, Tensor]:
    """Return the masks of the least sparsity of weights that saves a share of multiplications.

    masks_at: what a sparsity of weights, in [0, 1), keeps.  costs: of each weight, by name.

    Raises SparselthError where even the sparsest masks save less.
    """

    def saved(masks: Mapping[str, Tensor]) -> float:
        whole = sum(cost * masks[name].numel() for name, cost in costs.items())
        left = sum(cost * int(masks[name].count_nonzero()) for name, cost in costs.items())
        return 1 - left / max(whole, 1)

    low, high = 0.0, 1.0 - 2.0**-_HALVINGS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rounding, in masks that are not the last
        best = masks_at(high)
        if saved(best) < share:
            raise SparselthError(
                f"a weight left in each layer takes {1 - saved(best):.3g} of the multiplications, "
                f"more than the {1 - share:.3g} that the sparsity {share:g} leaves; lower it"
            )
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            masks = masks_at(middle)
            if saved(masks) < share:
                low = middle
            else:
                high, best = middle, masks
    return best
