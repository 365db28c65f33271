"""R_p, the paper's indicator of weight correlation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import SparselthError
from ..ops import functional


def weight_overlap(
    theta_a: Mapping[str, Tensor],
    theta_b: Mapping[str, Tensor],
    p: float = 0.2,
    masks: Mapping[str, Tensor] | None = None,
) -> float:
    """Return R_p: how far the largest weights of two networks coincide, in [0, 1].

    R_p = sum_l |T_p(a^l) n T_p(b^l)| / sum_l k_l, with T_p the indices of the k_l = round(p N_l)
    largest magnitudes of layer l, selected per layer and summed over layers. Dividing by the
    counts actually selected, instead of p N_l, makes R_p(a, a) exactly 1.
    About p: no correlation. Above p: positive. Below p: negative.

    theta_a, theta_b: parameter name -> tensor, the same names and shapes.
    p: share of weights compared, in (0, 1].
    masks: for two networks sharing a mask; N_l then counts the remaining weights only. Without
    masks N_l counts all weights, as for a sparse against a dense network (appendix F).

    Raises SparselthError on different names or shapes, p outside (0, 1], or NaN or Inf.

    Reference: Liu et al. 2021, arXiv:2102.11068, eq. (1) and footnote 3.
    """
    _check(theta_a, theta_b, p, masks)
    a = [theta_a[name].detach() for name in theta_a]
    b = [theta_b[name].detach() for name in theta_a]
    sizes = [tensor.numel() for tensor in a]
    if masks is not None:
        a = [tensor * masks[name] for name, tensor in zip(theta_a, a, strict=True)]
        b = [tensor * masks[name] for name, tensor in zip(theta_a, b, strict=True)]
        sizes = [int(masks[name].sum()) for name in theta_a]
    k = [round(p * size) for size in sizes]
    if sum(k) == 0:
        raise SparselthError(f"p = {p} selects no weight out of {sum(sizes)}; use a larger p")
    names = (
        [f"theta_a[{name!r}]" for name in theta_a],
        [f"theta_b[{name!r}]" for name in theta_a],
    )
    return float(functional.weight_overlap(a, b, k, names=names).sum()) / sum(k)


def overlap_chance(
    theta: Mapping[str, Tensor], p: float = 0.2, masks: Mapping[str, Tensor] | None = None
) -> tuple[float, float]:
    """Return the mean and standard deviation of R_p between independent networks.

    The overlap is hypergeometric per layer: mean p, sd (1 - p) / sqrt(sum N_l).
    """
    total = sum(
        int(masks[name].sum()) if masks is not None else tensor.numel()
        for name, tensor in theta.items()
    )
    return p, (1 - p) / max(total, 1) ** 0.5


def _check(theta_a, theta_b, p, masks) -> None:
    if not 0 < p <= 1:
        raise SparselthError(f"p is the share of weights to compare, in (0, 1]; got {p!r}")
    if not theta_a:
        raise SparselthError("theta_a is empty; pass the prunable parameters of both networks")
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
