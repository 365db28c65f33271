"""Simulated annealing over the sparsities of layers, under one budget for all."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_callable, check_number, check_whole
from ..errors import SparselthError
from ..ops.checks import check_sparsity
from .flops import check_budget, costs_of
from .leaving import left_as_it_was
from .masks import find_masks
from .processes import from_first_process, sum_over_processes
from .scores.batches import Batch, Loss, check_loss, listed, loss_of, pairs, size_of
from .scores.running import run, without_pruned
from .tensors import sites_and_sparsity

Masks = dict[str, Tensor]


def annealed_sparsities(
    model: nn.Module,
    sparsity: float,
    *,
    data: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    energy: Callable[[Masks], float] | None = None,
    steps: int = 100,
    seed: int = 0,
    start: float = 0.05,
    end: float = 0.001,
    perturbation: float = 0.5,
    budget: str = "weights",
    **search: Any,
) -> dict[str, float]:
    """Search the sparsity of each layer, under one budget, by simulated annealing.

    Begins with the same sparsity in every layer. Each step multiplies the densities by random
    factors, scales them to the budget, finds the masks and asks what they are worth; what is better
    is taken, and what is worse with probability exp(-(rise relative to the first) / temperature).
    The best of all is returned, so that it is never worse than the same sparsity everywhere.

    model: as in `find_masks`.  sparsity: of all layers together, in (0, 1).
    data, loss: batches (x, y) on which the mean loss of the pruned model, in evaluation mode, is
    what masks are worth.  energy: instead of both, a function of masks that returns a number, the
    lower the better; the model is dense while it is called, and left as it was.
    steps: masks that are tried.  seed: of the draws.  start, end: the temperature goes from one to
    the other by equal factors.  perturbation: the standard deviation of the factors' logarithms at
    the start; it falls with the temperature to a tenth.
    budget: "weights" or "flops", of what `sparsity` is a share.
    search: further arguments of `find_masks`: score, pattern, exclude, include, ...

    In a process group every process gets the same shares, by the batches of all; all call this.

    Returns parameter name -> share, for `find_masks(model, sparsity=...)`.

    Raises SparselthError as `find_masks` does, and where the energy is not finite.

    Reference: Liu et al. 2020, "AutoCompress", arXiv:1907.03141, section 4.1.
    """
    sparsity = check_sparsity(sparsity)
    steps = check_whole("steps", steps, 1)
    start = check_number("start", start, above=0.0)
    end = check_number("end", end, above=0.0, most=start)
    perturbation = check_number("perturbation", perturbation, above=0.0)
    check_budget(budget)
    if "allocation" in search or "within" in search:
        raise SparselthError("annealing allocates by itself; leave allocation and within out")
    sites, _ = sites_and_sparsity(model, None, search.get("exclude"), search.get("include", ()))
    batches = None if data is None else listed(data)
    sizes = {name: site.slot.numel() for name, site in sites.items() if site.slot.numel()}
    costs = dict.fromkeys(sizes, 1.0)
    if budget == "flops":
        costs = costs_of(model, sites, sparsity, batches)
    worth = _worth(model, batches, loss, energy)

    def tried(shares: Mapping[str, float]) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rounding and of what is left out: once, at the end
            found = find_masks(model, sparsity=shares, data=batches, loss=loss, **search)
        value = worth(found)
        if not math.isfinite(value):
            raise SparselthError(f"the energy of masks must be a finite number, got {value}")
        return value

    rng = random.Random(seed)
    whole = {name: costs[name] * size for name, size in sizes.items()}
    least = {name: 1 / size for name, size in sizes.items()}
    densities = dict.fromkeys(sizes, 1 - sparsity)
    first = now = lowest = tried(_shares(densities))
    best, unit = densities, max(abs(first), 1e-12)
    for step in range(steps):
        part = step / max(steps - 1, 1)
        heat = start * (end / start) ** part
        spread = perturbation * (0.1**part)
        moved = {n: d * math.exp(rng.gauss(0.0, spread)) for n, d in densities.items()}
        moved = _within_budget(moved, whole, least, 1 - sparsity)
        value = tried(_shares(moved))
        if value <= now or rng.random() < math.exp((now - value) / unit / heat):
            densities, now = moved, value
        if value < lowest:
            best, lowest = moved, value
    return _shares(best)


def _shares(densities: Mapping[str, float]) -> dict[str, float]:
    return {name: 1 - density for name, density in densities.items()}


def _within_budget(
    densities: Mapping[str, float],
    whole: Mapping[str, float],
    least: Mapping[str, float],
    density: float,
) -> dict[str, float]:
    """Scale densities until they cost a share of the whole; each stays in [least, 1]."""

    def scaled(factor: float) -> dict[str, float]:
        return {n: min(max(d * factor, least[n]), 1.0) for n, d in densities.items()}

    def cost(factor: float) -> float:
        return sum(whole[name] * d for name, d in scaled(factor).items())

    target, low, high = density * sum(whole.values()), 0.0, 1.0
    while cost(high) < target and high < 1e12:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < target else (low, middle)
    return scaled(low)


def _worth(
    model: nn.Module,
    data: list[Batch] | None,
    loss: Loss | None,
    energy: Callable[[Masks], float] | None,
) -> Callable[[Masks], float]:
    """Return what tells how good masks are, the lower the better."""
    if energy is not None:
        check_callable("energy", energy, "a function of masks")

        def told(masks: Masks) -> float:
            value = check_number("the energy of masks", energy(masks))
            # One for all processes: a function may look at what its own has.
            found = torch.tensor(value, dtype=torch.float64, device=_device_of(model))
            return float(from_first_process([found])[0])

        return told
    if data is None or loss is None or not data:
        raise SparselthError(
            "annealing needs to know what masks are worth: pass data=[(x, y), ...] and loss=, or "
            "energy=, a function of masks"
        )
    check_loss(loss)

    @torch.no_grad()
    def mean_loss(masks: Masks) -> float:
        pruned = without_pruned(model, masks)
        total, count = torch.zeros((), dtype=torch.float64, device=_device_of(model)), 0
        with left_as_it_was(model):
            model.eval()
            for number, (x, y) in enumerate(pairs(data)):
                size = size_of(x, y)
                total += loss_of(loss, run(pruned, x, number), y, number).double() * size
                count += size
        count = sum_over_processes([total], count)
        return float(total) / max(count, 1)

    return mean_loss


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
