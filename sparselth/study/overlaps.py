"""The overlap of the largest weights between networks of a study, the paper's R_p.

Reference: Liu et al., 2021, equation 1, footnote 3 and appendix F.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..pruning import overlap_chance, weight_overlap
from .cells import Cell

PERCENTAGES = (0.1, 0.2, 0.3, 0.4, 0.5)
MAIN_P = 0.2

Weights = Mapping[str, Tensor]


def overlap_rows(
    pairs: Mapping[str, tuple[Weights, Weights]],
    cell: Cell,
    masks: Weights | None = None,
    largest: float = 1.0,
) -> list[dict[str, Any]]:
    """Compute R_p of each pair for every p of `PERCENTAGES` below `largest`.

    With `masks`, p is a share of the remaining weights; without, of all prunable ones. `chance` and
    `chance_sd` are what two networks without any relation would show.
    """
    rows = []
    # "Less than", as the paper puts it; 1 - 0.8 is not quite 0.2 in floating point.
    shares = [p for p in PERCENTAGES if p <= largest - 1e-9]
    for name, (first, second) in pairs.items():
        found = weight_overlap(first, second, shares, masks)
        for p, overlap in zip(shares, found, strict=True):
            chance, chance_sd = overlap_chance(first, p, masks)
            rows.append(
                {
                    "learning_rate": cell.learning_rate,
                    "seed": cell.seed,
                    "generator": cell.generator,
                    "sparsity": cell.sparsity,
                    "pair": name,
                    "p": p,
                    "share_of": "all" if masks is None else "remaining",
                    "overlap": overlap,
                    "chance": chance,
                    "chance_sd": chance_sd,
                }
            )
    return rows
