"""The overlap of the largest weights between networks of a study, the paper's R_p.

Reference: Liu et al. 2021, equation 1, footnote 3 and appendix F; Ma et al. 2021, arXiv:2107.00166,
appendix G (starts against the pruned pre-trained network).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ...pruning import layer_overlaps, overlap_chance, weight_overlap
from ..plan.cells import Cell
from ..plan.percentages import selecting

DENSE_PAIR = "theta_0, theta_T"
TICKET_PAIR = "theta_0*m, (theta_T*m)_T"
REINIT_PAIR = "theta_0'*m, (theta_T*m)_T"
TUNED_PAIR = "theta_T*m, (theta_T*m)_T"
AGAINST_THETA_0 = "theta_0, (theta_T*m)_T"
AGAINST_THETA_T = "theta_T, (theta_T*m)_T"

# Each with p a share of the remaining weights.
MASKED_PAIRS = (
    TICKET_PAIR,
    REINIT_PAIR,
    TUNED_PAIR,
    "theta_0*m, theta_T*m",
    "theta_0'*m, theta_T*m",
    "theta_0*m, (theta_0*m)_T",
    "theta_0'*m, (theta_0'*m)_T",
    "(theta_0*m)_T, (theta_T*m)_T",
)

# Each with p a share of all weights, below the share that remains.
AGAINST_DENSE_PAIRS = (AGAINST_THETA_0, AGAINST_THETA_T)

Weights = Mapping[str, Tensor]


def overlap_rows(
    cell: Cell,
    networks: Mapping[str, Weights],
    pairs: tuple[str, ...],
    masks: Weights | None = None,
    kept: Weights | None = None,
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield R_p of each pair of `networks` for every p of `PERCENTAGES`.

    networks: name in `pairs` -> prunable weights; a pair of which one is missing is left out.
    With `masks`, p is a share of the remaining weights; without, of all. With `kept`, the masks of
    a sparse network among them, only those p for which it has weights left in every layer: what is
    selected beyond would be zeros, by their place. `chance` and `chance_sd` are what two networks
    without any relation would show. Each row comes with those of its layers.
    """
    for pair in pairs:
        first, second = (networks.get(name) for name in pair.split(", "))
        if first is None or second is None:
            continue
        shares = [p for p in selecting(first, masks) if kept is None or _has(kept, p)]
        if not shares:
            continue
        totals = weight_overlap(first, second, shares, masks)
        by_layer = layer_overlaps(first, second, shares, masks)
        for i, (p, overlap) in enumerate(zip(shares, totals, strict=True)):
            chance, chance_sd = overlap_chance(first, p, masks)
            row = cell.place() | {
                "pair": pair,
                "p": p,
                "share_of": "all" if masks is None else "remaining",
            }
            layers = []
            for name, values in by_layer.items():
                if math.isnan(values[i]):  # a layer too small for this p
                    continue
                own = {name: first[name]}, None if masks is None else {name: masks[name]}
                _, layer_sd = overlap_chance(own[0], p, own[1])
                measured = {"overlap": values[i], "chance": chance, "chance_sd": layer_sd}
                layers.append(row | {"layer": name, **measured})
            yield row | {"overlap": overlap, "chance": chance, "chance_sd": chance_sd}, layers


def _has(masks: Weights, p: float) -> bool:
    """Say whether every layer has a share p left, and all together more, as the paper has it."""
    counts = [(round(p * mask.numel()), int(mask.sum())) for mask in masks.values()]
    selected, left = map(sum, zip(*counts, strict=True))
    return selected < left and all(wanted <= there for wanted, there in counts)
