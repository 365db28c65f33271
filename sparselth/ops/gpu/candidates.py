"""Which of the GPU's convolutions serves a mask: the one that should take least time.

A mask is looked at once, which waits for the GPU; what was found out is kept with the mask's memory
until it changes (`derived.py`). `kernel_choice` measures the kernel that is chosen against dense
cuDNN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import SparselthError
from .. import derived
from ..contract import ConvSettings
from ..switches import forced
from .blocks import Blocks
from .column_vector import ColumnVector8, ColumnVector16
from .compaction import Compacted
from .halo_blocks import HaloBlocks
from .kernel import DTYPES, ConvKernel
from .tma_blocks import TmaBlocks
from .unstructured import Unstructured

KERNELS: tuple[type[ConvKernel], ...] = (
    Blocks,
    TmaBlocks,
    Compacted,
    HaloBlocks,
    Unstructured,
    ColumnVector16,
    ColumnVector8,
)


@dataclass(eq=False)
class ConvCandidates:
    """The kernels that can serve a mask.

    shape: (C_out, C_in / groups, kH, kW).  kernels: those that should be fastest first.
    """

    shape: tuple[int, ...]
    groups: int
    kernels: list[ConvKernel]
    _ranked: dict[tuple, list[ConvKernel]] = field(default_factory=dict)

    def _of_kind(self, backend: str | None, dtype: torch.dtype | None) -> list[ConvKernel]:
        """Return the kernels of a backend, or those worth it, for a dtype, or all; found once."""
        if (backend, dtype) not in self._ranked:
            wanted = DTYPES if dtype is None else (dtype,)
            # What cuDNN does with groups was not measured: there whatever serves may be.
            most = 1.0 if backend is None and self.groups == 1 else math.inf
            self._ranked[backend, dtype] = [
                kernel
                for kernel in self.kernels
                if backend in (None, kernel.backend)
                and set(wanted) <= set(kernel.dtypes)
                and kernel.relative_time < most
            ]
        return self._ranked[backend, dtype]

    def choose(
        self,
        dtype: torch.dtype | None = None,
        input_hw: Sequence[int] | None = None,
        conv: ConvSettings | None = None,
    ) -> ConvKernel | None:
        """Return the kernel to be used, or None where dense cuDNN is, as none should be faster.

        dtype: of the activations; None asks for what serves all.
        input_hw: (H, W) of the images in pixels.  conv: the settings that go with them. Both None
        ask for no size.
        A forced backend leaves its own kernels to choose from, however slow.

        Raises SparselthError where a forced backend has kernels, and none fits the images.
        """
        if dtype is not None and dtype not in DTYPES:
            return None
        backend = forced()
        kernels = self._of_kind(backend, dtype)
        if input_hw is None or conv is None:
            return kernels[0] if kernels else None
        for kernel in kernels:
            if kernel.fits(self.shape, input_hw, conv):
                return kernel
        if kernels and backend is not None:
            raise SparselthError(
                f"use_backend({backend!r}) is on, but a kernel of {self.shape[2:]} with dilation "
                f"{tuple(conv[2])} reaches too far for it"
            )
        return None

    @property
    def relative_time(self) -> float:
        """The time that should be taken, as a share of dense cuDNN's."""
        kernel = self.choose()
        return 1.0 if kernel is None else kernel.relative_time


class Rebuilt:
    """Counts backwards that found nothing known of their mask, and warns of it, once.

    The forward of a mask looks at it; whoever keeps saved tensors elsewhere until the backward
    (`torch.autograd.graph.saved_tensors_hooks`, offloading) hands over another tensor then.
    """

    def __init__(self, most: int = 32) -> None:
        self.most, self.count = most, 0

    def note(self) -> None:
        """Count one."""
        self.count += 1
        if self.count == self.most:
            warnings.warn(
                f"{self.most} backwards of masked convolutions looked at their masks anew, which "
                "waits for the GPU: what saves tensors for the backward replaced them. Let it "
                "leave bool tensors where they are",
                stacklevel=2,
            )


_rebuilt = Rebuilt()


def candidates_in_backward(mask: Tensor, groups: int) -> ConvCandidates:
    """Return what `candidates_for` does, which the forward should have found."""
    if not mask.is_inference() and derived.recall(mask, ("candidates", groups)) is None:
        _rebuilt.note()
    return candidates_for(mask, groups)


def find_candidates(mask: Tensor, groups: int) -> ConvCandidates:
    """Look at a convolution's mask, bool (C_out, C_in / groups, kH, kW): waits for the GPU."""
    kernels = [kernel.for_mask(mask, groups) for kernel in KERNELS]
    there = sorted((k for k in kernels if k is not None), key=lambda kernel: kernel.relative_time)
    return ConvCandidates(tuple(mask.shape), groups, there)


def candidates_for(mask: Tensor, groups: int) -> ConvCandidates:
    """Return what can serve a mask: found when it is first asked for, and anew when it changed.

    mask: bool (C_out, C_in / groups, kH, kW). An inference tensor has no version counter to know it
    again by: it is looked at in every call.
    """
    if mask.is_inference():
        return find_candidates(mask, groups)
    candidates = derived.recall(mask, ("candidates", groups))
    if candidates is None:
        candidates = find_candidates(mask, groups)
        derived.note(mask, ("candidates", groups), candidates)
    return candidates
