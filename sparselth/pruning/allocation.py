"""The allocation axis: how many weights or groups stay in each layer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import prod

from torch import Tensor

from ..checks import check_name
from ..errors import SparselthError
from ..ops.checks import check_sparsity, kept, kept_counts
from ..ops.patterns import ELEMENT, Blocks, KernelShapes, NOfM, Pattern
from .erk import erk_sparsities

ALLOCATIONS = ("uniform", "global", "erk", "lamp", "given")

TOGETHER = ("global", "lamp")
"""Those that rank the weights of all layers together."""

Sparsity = float | Mapping[str, float]

DEFAULT_SPARSITY = 0.9


def counts_for(
    parameters: Mapping[str, Tensor],
    sparsity: Sparsity | None,
    allocation: str,
    pattern: Pattern = ELEMENT,
    stacklevel: int = 6,
) -> int | list[int] | None:
    """Return how many weights or groups stay, as `selection.topk_mask` takes it.

    One count for all layers together with allocation "global" or "lamp", else one per layer, None
    for N:M. A layer keeps at least one weight or group, except with these; one warning names the
    layers where rounding would have left none.
    sparsity: one share for all layers; or by parameter name, with allocation "given". None: what
    the pattern prunes by itself, `DEFAULT_SPARSITY` for most.
    stacklevel: of the warning, so that it names who called `ADMM` or `find_masks`.

    Raises SparselthError on a share outside [0, 1), names that do not fit, an unknown allocation,
    or a sparsity that the pattern cannot have.
    """
    check_name("allocation", allocation, ALLOCATIONS)
    if sparsity is None and isinstance(pattern, Blocks):
        sparsity = DEFAULT_SPARSITY
    if isinstance(pattern, NOfM) and allocation in ("erk", "given"):
        raise SparselthError(
            f"{pattern.n}:{pattern.m} fixes the sparsity of every layer, and so does "
            f"{'a sparsity by name' if allocation == 'given' else repr(allocation)}; leave it out, "
            "or take a pattern that leaves it free"
        )
    if (allocation == "given") != isinstance(sparsity, Mapping):
        raise SparselthError(
            'a sparsity by parameter name is its own allocation, "given", and one number goes '
            f"with the others; got {type(sparsity).__name__} and {allocation!r}"
        )
    if sparsity is None and allocation == "erk":
        raise SparselthError('allocation="erk" with kernel shapes takes a sparsity, got none')
    if isinstance(pattern, NOfM) or sparsity is None or allocation in TOGETHER:
        assert not isinstance(sparsity, Mapping)
        counts, global_ = kept_counts(
            list(parameters.values()),
            sparsity=sparsity,
            allocation=op_allocation(allocation),
            pattern=pattern,
        )
        if isinstance(pattern, NOfM):
            return None
        return counts[0] if global_ else counts
    shares = _by_layer(parameters, sparsity, allocation)
    return _counts_by_layer(parameters, shares, pattern, stacklevel)


def allocation_of(sparsity: Sparsity | None, allocation: str) -> str:
    """Return the allocation that a sparsity has: shares by layer are given, and not asked about."""
    return "given" if isinstance(sparsity, Mapping) and allocation == "uniform" else allocation


def op_allocation(allocation: str) -> str:
    """Return what the ops call an allocation: to them ERK's counts are given ones."""
    return {"erk": "given", "lamp": "global"}.get(allocation, allocation)


def _by_layer(
    parameters: Mapping[str, Tensor], sparsity: Sparsity, allocation: str
) -> Mapping[str, float]:
    if not isinstance(sparsity, Mapping):
        if allocation == "erk":
            return erk_sparsities(parameters, sparsity)
        return dict.fromkeys(parameters, check_sparsity(sparsity))
    if set(sparsity) != set(parameters):
        raise SparselthError(
            "sparsity and the prunable parameters differ in these names: "
            f"{sorted(set(sparsity) ^ set(parameters))}"
        )
    return sparsity


def _counts_by_layer(
    parameters: Mapping[str, Tensor],
    shares: Mapping[str, float],
    pattern: Blocks | KernelShapes,
    stacklevel: int,
) -> list[int]:
    counts, raised = [], []
    for name, tensor in parameters.items():
        shape = tuple(tensor.shape)
        try:
            count = kept(pattern, [shape], check_sparsity(shares[name]))
        except SparselthError as error:
            raise SparselthError(f"{name}: {error}") from None
        if count == 0 < pattern.groups(shape):
            count = 1
            raised.append(_raised(name, shape, shares[name], pattern))
        counts.append(count)
    if raised:
        unit = "weight" if pattern == ELEMENT else "group"
        warnings.warn(
            f"rounding leaves no {unit} in some layers, where one is kept instead: "
            + ", ".join(raised),
            stacklevel=stacklevel,
        )
    return counts


def _raised(name: str, shape: tuple[int, ...], asked: float, pattern: Blocks | KernelShapes) -> str:
    """Return what a warning says of a layer that keeps one weight or group."""
    groups, size = pattern.groups(shape), prod(shape)
    # What a sparsity is a share of: weights with kernel shapes, else groups.
    share = pattern.entries(shape) / size if isinstance(pattern, KernelShapes) else 1 / groups
    grouped = "" if pattern == ELEMENT else f" in {groups} groups"
    return f"{name} ({size} weights{grouped}, sparsity {asked:.6g} asked, {1 - share:.6g} reached)"
