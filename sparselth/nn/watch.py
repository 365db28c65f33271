"""Has a mask changed since it was last looked at? Asked in every forward, by counters first."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def version_of(tensor: Tensor) -> int:
    """Return how often `tensor` was written to; -1 where nobody counts (inference tensors)."""
    return -1 if tensor.is_inference() else tensor._version


def _stamp(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), version_of(tensor)


class MaskWatch:
    """What is remembered of a mask, to tell whether it holds something else now.

    seen: its address and version counter when it was last looked at.  exposed: somebody has the
    mask who may write past the counter, through `data` or numpy.
    """

    def __init__(self) -> None:
        self.seen = (0, 0)
        self.exposed = False
        self._compares = False
        self._copy: Tensor | None = None

    def begin(self, mask: Tensor | None) -> None:
        """Remember a mask as it is; None for one without values or address."""
        self.seen = (0, 0) if mask is None else _stamp(mask)
        with torch.inference_mode(False):
            self._copy = mask.clone() if self._compares and mask is not None else None

    def expose(self, mask: Tensor) -> None:
        """Compare with a copy from now on: the mask goes to somebody who may write to it unseen."""
        if not self.exposed:
            self._compares = self.exposed = True
            self._copy = mask.clone()

    def knows(self, mask: Tensor) -> bool:
        """Say whether counters tell that the mask is as it was; it may be so where they do not."""
        return not self.exposed and _stamp(mask) == self.seen

    def changed(self, mask: Tensor) -> bool:
        """Say whether the mask holds something else than when it was last looked at."""
        if self.knows(mask):
            return False
        same, self.seen = self._is_known(mask), _stamp(mask)
        self._compares |= not same
        return not same

    def _is_known(self, mask: Tensor) -> bool:
        """Say whether the mask holds what it did when it was last looked at, written to or not.

        There is a copy to tell once a mask was written to in place: torch's DistributedDataParallel
        writes the same buffers again before every forward.
        """
        known = self._copy
        if known is None or mask.device != known.device or mask.shape != known.shape:
            return False
        if mask.device.type == "cpu":  # by numpy, which programs being recorded do not see
            return np.array_equal(mask.numpy(), known.numpy())
        return torch.equal(mask, known)
