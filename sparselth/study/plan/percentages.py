"""For which p the overlap of the largest weights, the paper's R_p, is measured."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PERCENTAGES = (0.1, 0.2, 0.3, 0.4, 0.5)
MAIN_P = 0.2


def selecting(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
) -> list[float]:
    """Return those of `PERCENTAGES` that select any weight; of very few a small one does not."""
    sizes = [
        weight.numel() if masks is None else int(masks[name].sum())
        for name, weight in weights.items()
    ]
    return [p for p in PERCENTAGES if any(round(p * size) for size in sizes)]
