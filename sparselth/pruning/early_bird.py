"""Early-bird tickets: a mask that has stopped changing long before training ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from ..checks import check_mapping, check_number, check_whole
from ..errors import SparselthError
from ..ops.checks import MASKS, check_mask


class EarlyBird:
    """Says when masks that are drawn again and again, once per epoch, have stopped changing.

    distance: the largest share of entries, in [0, 1], in which the newest mask may differ from each
    of those before.  queue: how many masks are looked at, the newest among them, >= 2.

    Raises SparselthError for numbers out of range.

    Reference: You et al. 2020, arXiv:1909.11957, section 3.2 (0.1 and 5).
    """

    def __init__(self, *, distance: float = 0.1, queue: int = 5) -> None:
        self.distance = check_number("distance", distance, 0.0, 1.0)
        self._seen: deque[Mapping[str, Tensor]] = deque(maxlen=check_whole("queue", queue, 2))

    def update(self, masks: Mapping[str, Tensor]) -> bool:
        """Take the newest masks; say whether they are those of an early bird.

        masks: parameter name -> bool mask, as `find_masks` returns them, say for
        score="bn-scale", pattern "filter"; of the same layers each time.

        Raises SparselthError for what are no masks, and for those of other layers than before.
        """
        check_mapping("masks", masks, MASKS)
        for name, mask in masks.items():
            check_mask(mask, mask, f"the mask of {name!r}")
        if self._seen and _shapes(self._seen[-1]) != _shapes(masks):
            raise SparselthError(
                "these masks are of other layers or shapes than those before; use an EarlyBird for "
                "each model"
            )
        self._seen.append({name: mask.clone() for name, mask in masks.items()})
        return len(self._seen) == self._seen.maxlen and max(self.distances()) <= self.distance

    def distances(self) -> list[float]:
        """Return the share of entries in which the newest masks differ from each before, in [0, 1].

        The oldest of the queue first; empty before the second.
        """
        if not self._seen:
            return []
        *before, newest = self._seen
        total = max(sum(mask.numel() for mask in newest.values()), 1)
        return [
            sum(int(torch.ne(newest[name], mask).sum()) for name, mask in old.items()) / total
            for old in before
        ]


def _shapes(masks: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: mask.shape for name, mask in masks.items()}
