"""R_p, the paper's indicator of weight correlation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import overload

import torch
from torch import Tensor, nn

from ..checks import check_number
from ..errors import SparselthError
from ..ops import selection
from ..ops.checks import check_tensors
from ..ops.parameter_masks import clean_among_
from .tensors import prunable_parameters

Weights = Mapping[str, Tensor]
Network = Weights | nn.Module


@overload
def weight_overlap(
    theta_a: Network, theta_b: Network, p: float = ..., masks: Weights | None = ...
) -> float: ...


@overload
def weight_overlap(
    theta_a: Network, theta_b: Network, p: Sequence[float], masks: Weights | None = ...
) -> list[float]: ...


def weight_overlap(theta_a, theta_b, p=0.2, masks=None):
    """Return R_p: how far the largest weights of two networks coincide, in [0, 1].

    R_p = sum_l |T_p(a^l) n T_p(b^l)| / sum_l k_l, with T_p the indices of the k_l = round(p N_l)
    largest magnitudes of layer l, selected per layer and summed over layers. Dividing by the
    counts actually selected, instead of p N_l, makes R_p(a, a) exactly 1.
    About p: no correlation. Above p: positive. Below p: negative.

    theta_a, theta_b: parameter name -> tensor, the same names and shapes; or models, of which the
    prunable parameters are compared.
    p: share of weights compared, in (0, 1]; or several, for which a list is returned and which
    share their passes over the weights.
    masks: for two networks sharing a mask; N_l then counts the remaining weights only, and what
    the pruned ones hold does not matter. Without masks N_l counts all weights, as for a sparse
    against a dense network (appendix F); a warning says where p selects more than either network
    has left, so that zeros are counted, of which ties keep the first.

    Raises SparselthError on different names or shapes, p outside (0, 1], or NaN or Inf.

    Reference: Liu et al. 2021, arXiv:2102.11068, eq. (1) and footnote 3.
    """
    shares = _shares(p)
    theta_a, theta_b = _weights(theta_a), _weights(theta_b)
    shared, selected = _counted(theta_a, theta_b, shares, masks)
    overlaps = []
    for row, k, share in zip(shared.tolist(), selected, shares, strict=True):
        if sum(k) == 0:
            total = sum(_sizes(theta_a, masks))
            raise SparselthError(f"p = {share} selects no weight out of {total}; use a larger p")
        overlaps.append(sum(row) / sum(k))
    return overlaps if isinstance(p, Sequence) else overlaps[0]


def layer_overlaps(
    theta_a: Network,
    theta_b: Network,
    p: float | Sequence[float] = 0.2,
    masks: Weights | None = None,
) -> dict[str, list[float]]:
    """Return R_p of every layer by itself: parameter name -> one value for each p.

    theta_a, theta_b, p, masks: as in `weight_overlap`. NaN where p selects no weight of a layer.

    Raises SparselthError as `weight_overlap` does, but for a p that selects nothing.

    Reference: Liu et al. 2021, arXiv:2102.11068, equation (1), for one layer.
    """
    theta_a, theta_b = _weights(theta_a), _weights(theta_b)
    shared, selected = _counted(theta_a, theta_b, _shares(p), masks)
    rows = shared.tolist()
    return {
        name: [row[i] / k[i] if k[i] else math.nan for row, k in zip(rows, selected, strict=True)]
        for i, name in enumerate(theta_a)
    }


def _weights(theta: Network) -> Weights:
    return prunable_parameters(theta) if isinstance(theta, nn.Module) else theta


def _shares(p: float | Sequence[float]) -> list[float]:
    shares = list(p) if isinstance(p, Sequence) and not isinstance(p, (str, bytes)) else [p]
    what = "p, the share of weights to compare,"
    return [check_number(what, share, above=0, most=1) for share in shares]


def _counted(
    theta_a: Weights, theta_b: Weights, shares: list[float], masks: Weights | None
) -> tuple[Tensor, list[list[int]]]:
    """Return, for each share and layer, the indices in common, and how many were selected."""
    _check(theta_a, theta_b, masks)
    clean_among_([*theta_a.values(), *theta_b.values()])  # as parameters() hands them out
    a = [theta_a[name].detach() for name in theta_a]
    b = [theta_b[name].detach() for name in theta_a]
    mask_list = None if masks is None else [masks[name] for name in theta_a]
    if not shares:
        return torch.empty(0, len(a), dtype=torch.int64, device="cpu"), []
    sizes = _sizes(theta_a, masks)
    k = [[round(share * size) for size in sizes] for share in shares]
    names = (
        [f"theta_a[{name!r}]" for name in theta_a],
        [f"theta_b[{name!r}]" for name in theta_a],
    )
    if masks is None:
        _warn_of_zeros(list(theta_a), a, b, [max(of_layer) for of_layer in zip(*k, strict=True)])
    return selection.weight_overlap(a, b, k, masks=mask_list, names=names), k


def _warn_of_zeros(names: list[str], a: list[Tensor], b: list[Tensor], k: list[int]) -> None:
    """Warn where both networks have fewer weights left than are selected: R_p counts zeros then."""
    few = [
        name
        for name, x, y, most in zip(names, a, b, k, strict=True)
        if _has_fewer(x, most) and _has_fewer(y, most)
    ]
    if few:
        warnings.warn(
            f"both networks have fewer weights that are not zero than p selects in {few[0]}"
            f"{f' and {len(few) - 1} more' * (len(few) > 1)}: R_p compares where their zeros are, "
            "too. Use a smaller p, or masks= where they share a mask",
            stacklevel=4,
        )


def _has_fewer(weight: Tensor, k: int) -> bool:
    """Say whether a weight has less than k entries that are not zero."""
    some = weight.flatten()[:: max(1, weight.numel() // 1024)]
    # A look at some spares most weights the pass: where zeros decide, there are many.
    return not bool(some.all()) and int(weight.count_nonzero()) < k


def _sizes(theta: Weights, masks: Weights | None) -> list[int]:
    """Return N_l of every layer."""
    if masks is None:
        return [tensor.numel() for tensor in theta.values()]
    return [int(masks[name].count_nonzero()) for name in theta]


def overlap_chance(
    theta: Network, p: float = 0.2, masks: Weights | None = None
) -> tuple[float, float]:
    """Return the mean and standard deviation of R_p between independent networks.

    The overlap is hypergeometric per layer: mean p, sd (1 - p) / sqrt(sum N_l).

    theta: parameter name -> tensor, of which the sizes count.  p: share of weights compared, in
    (0, 1].  masks: parameter name -> bool mask; N_l then counts the remaining weights only.

    Raises SparselthError as `weight_overlap` does.
    """
    (p,) = _shares([p])
    theta = _weights(theta)
    _check(theta, theta, masks)
    return p, (1 - p) / max(sum(_sizes(theta, masks)), 1) ** 0.5


def _check(theta_a, theta_b, masks) -> None:
    for label, theta in (("theta_a", theta_a), ("theta_b", theta_b)):
        check_tensors(label, theta)
    if masks is not None:
        check_tensors("masks", masks)
    if not theta_a:
        raise SparselthError("theta_a is empty; pass the prunable parameters of both networks")
    kinds: dict[tuple[torch.dtype, torch.device], str] = {}
    for label, theta in (("theta_a", theta_a), ("theta_b", theta_b)):
        for name, tensor in theta.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                what = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise SparselthError(
                    f"{label}[{name!r}] is {what}; R_p compares real floating-point weights, so "
                    "pass the prunable parameters of both networks, not whole state dicts"
                )
            kinds.setdefault((tensor.dtype, tensor.device), f"{label}[{name!r}]")
    if len(kinds) > 1:
        listed = ", ".join(f"{where} is {kind[0]} on {kind[1]}" for kind, where in kinds.items())
        raise SparselthError(f"R_p compares weights of one dtype on one device; {listed}")
    for label, other in (("theta_b", theta_b), ("masks", masks)):
        if other is None:
            continue
        if set(theta_a) != set(other):
            names = sorted(set(theta_a) ^ set(other))
            raise SparselthError(f"theta_a and {label} differ in these names: {names}")
        for name, tensor in theta_a.items():
            if other[name].shape != tensor.shape:
                raise SparselthError(
                    f"{name!r} has shape {tuple(tensor.shape)} in theta_a, "
                    f"{tuple(other[name].shape)} in {label}"
                )
