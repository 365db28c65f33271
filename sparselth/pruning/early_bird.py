"""Early-bird tickets: a mask that has stopped changing long before training ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_mapping, check_number, check_whole, kind
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
        self._seen.append(_checked(masks, self._seen))
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
            sum(int(torch.ne(newest[name], mask).count_nonzero()) for name, mask in old.items())
            / total
            for old in before
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: the masks that are looked at, the oldest first."""
        return {"method": type(self).__name__, "masks": [dict(masks) for masks in self._seen]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises SparselthError for what is none.
        """
        mine = type(self).__name__
        if (
            not isinstance(state, Mapping)
            or state.keys() != {"method", "masks"}
            or state["method"] != mine
            or not isinstance(state["masks"], list)
        ):
            raise SparselthError(
                f"a state of {mine} holds its method and its masks, got {kind(state)}"
            )
        seen: deque[Mapping[str, Tensor]] = deque(maxlen=self._seen.maxlen)
        for masks in state["masks"]:
            seen.append(_checked(masks, seen))
        self._seen = seen


def _checked(masks: Mapping[str, Tensor], before: Sequence[Mapping[str, Tensor]]) -> dict:
    """Return copies of masks, of the same layers as those before."""
    check_mapping("masks", masks, MASKS)
    for name, mask in masks.items():
        check_mask(mask, mask, f"the mask of {name!r}")
    if before and _shapes(before[-1]) != _shapes(masks):
        raise SparselthError(
            "these masks are of other layers or shapes than those before; use an EarlyBird for "
            "each model"
        )
    return {name: mask.clone() for name, mask in masks.items()}


def _shapes(masks: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: mask.shape for name, mask in masks.items()}
