"""The pattern axis: what is pruned as one unit, by name; some patterns are found from the weights.

`sparselth.ops.patterns` holds the patterns themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor

from ..checks import check_whole
from ..errors import SparselthError
from ..ops.checks import tensor_list
from ..ops.patterns import NAMED, Blocks, KernelShapes, NOfM, Pattern, axes, find_pattern


def kernel_shapes(
    weights: Sequence[Tensor], entries: int = 4, count: int = 8, taps: int = 9
) -> KernelShapes:
    """Return the `count` shapes that most kernels would choose for themselves.

    A kernel's own shape are its `entries` weights of largest magnitude, ties to the lowest tap.
    Shapes that as many kernels choose are ranked by their bits. Kernels of another number of taps
    than `taps` are passed over.
    weights: (C_out, C_in, kH, kW) each.  entries: in [1, taps).  count: in [1, 16].

    Raises SparselthError when no weight has such kernels.

    Reference: Niu et al. 2020, "PatDNN", arXiv:2001.00138, section 4.1; Ma et al. 2020, "PCONV",
    arXiv:1909.05073 (four entries; there with the center always among them).
    """
    taps, entries = check_whole("taps", taps, 2), check_whole("entries", entries, 1)
    count = check_whole("count", count, 1)
    if not 1 <= entries < taps or not 1 <= count <= 16:
        raise SparselthError(
            f"kernel shapes take 1 <= entries < {taps} and 1 <= count <= 16, got {entries}, {count}"
        )
    chosen: Counter[int] = Counter()
    for weight in tensor_list("weights", weights):
        if axes(weight.shape)[2] != taps:
            continue
        kernels = weight.detach().reshape(-1, taps).abs().float()
        kept = kernels.sort(dim=1, descending=True, stable=True).indices[:, :entries]
        shapes, kernel_counts = (1 << kept).sum(1).unique(return_counts=True)
        chosen.update(dict(zip(shapes.tolist(), kernel_counts.tolist(), strict=True)))
    if not chosen:
        raise SparselthError(f"no weight has kernels of {taps} taps to find shapes from")
    ranked = sorted(chosen, key=lambda shape: (-chosen[shape], shape))
    return KernelShapes(tuple(ranked[:count]), taps)


# Name -> what finds the pattern from the weights that will be pruned.
FOUND: dict[str, Callable[[Sequence[Tensor]], Pattern]] = {"kernel_shape": kernel_shapes}

COMPOSED = ("filter+column", "coupled")
"""What `find_masks` makes of others itself, see `structured`, and no kernel knows."""

PATTERNS = (*NAMED, *FOUND, *COMPOSED)


def pattern_for(
    pattern: str | Pattern, weights: Sequence[Tensor], also: Sequence[str] = ()
) -> Pattern:
    """Return a pattern by its name in `PATTERNS`, blocks such as "16x1", N:M, or the one given.

    also: names that an error lists besides.

    Raises SparselthError for an unknown name, listing the known ones.
    """
    if isinstance(pattern, str) and pattern in FOUND:
        return FOUND[pattern](weights)
    return find_pattern(pattern, also=(*FOUND, *also))


__all__ = ["PATTERNS", "Blocks", "KernelShapes", "NOfM", "Pattern", "kernel_shapes", "pattern_for"]
