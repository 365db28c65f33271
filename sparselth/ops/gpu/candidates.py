"""Which of the GPU's convolutions serves a mask: the one that should take least time.

What was found out about a mask lives beside its plan, an empty tensor that stands for it. A call
without a plan, or with one that was not made here, looks at its mask anew, which waits for the GPU
once; the mask is remembered until it changes. `kernel_choice`
measures the one that is chosen against dense cuDNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...errors import SparselthError
from .. import derived
from ..contract import ConvSettings
from ..switches import forced
from .blocks import Blocks
from .column_vector import ColumnVector8, ColumnVector16
from .compaction import Compacted
from .kernel import DTYPES, ConvKernel
from .unstructured import Unstructured

KERNELS: tuple[type[ConvKernel], ...] = (
    Blocks,
    Compacted,
    Unstructured,
    ColumnVector16,
    ColumnVector8,
)

_by_plan = WeakIdKeyDictionary()


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
        """Return the kernels of a backend, or all, that serve a dtype, or all; found once."""
        if (backend, dtype) not in self._ranked:
            wanted = DTYPES if dtype is None else (dtype,)
            self._ranked[backend, dtype] = [
                kernel
                for kernel in self.kernels
                if backend in (None, kernel.backend) and set(wanted) <= set(kernel.dtypes)
            ]
        return self._ranked[backend, dtype]

    def choose(
        self,
        dtype: torch.dtype | None = None,
        input_hw: Sequence[int] | None = None,
        conv: ConvSettings | None = None,
    ) -> ConvKernel | None:
        """Return the kernel to be used, or None where dense cuDNN is.

        dtype: of the activations; None asks for what serves all.
        input_hw: (H, W) of the images in pixels.  conv: the settings that go with them. Both None
        ask for no size.
        A forced backend leaves its own kernels to choose from.

        Raises SparselthError where a forced backend has kernels, and none fits the images.
        """
        if dtype is not None and dtype not in DTYPES:
            return None
        backend = forced()
        found = self._of_kind(backend, dtype)
        if input_hw is None or conv is None:
            return found[0] if found else None
        for kernel in found:
            if kernel.fits(self.shape, input_hw, conv):
                return kernel
        if found and backend is not None:
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


def find_candidates(mask: Tensor, groups: int) -> ConvCandidates:
    """Look at a convolution's mask, bool (C_out, C_in / groups, kH, kW): waits for the GPU."""
    kernels = [kernel.for_mask(mask, groups) for kernel in KERNELS]
    there = sorted((k for k in kernels if k is not None), key=lambda kernel: kernel.relative_time)
    return ConvCandidates(tuple(mask.shape), groups, there)


def gpu_plan(mask: Tensor, groups: int) -> Tensor:
    """Return the plan of a convolution's mask: a tensor that stands for its candidates."""
    plan = torch.empty(0, dtype=torch.int32, device=mask.device)
    _by_plan[plan] = find_candidates(mask, groups)
    return plan


def relative_time(plan: Tensor | None) -> float | None:
    """Return the time expected under a plan of this module, as a share of dense; else None."""
    found = None if plan is None else _by_plan.get(plan)
    return None if found is None else found.relative_time


def candidates_for(plan: Tensor | None, mask: Tensor, groups: int) -> ConvCandidates:
    """Return what can serve a mask, by its plan if it has one.

    Raises SparselthError for the plan of a mask of another shape.
    """
    found = None if plan is None else _by_plan.get(plan)
    if found is None:
        found = derived.recall(mask, ("candidates", groups))
        if found is None:
            found = find_candidates(mask, groups)
            derived.note(mask, ("candidates", groups), found)
        return found
    if found.shape != tuple(mask.shape) or found.groups != groups:
        raise SparselthError("the plan belongs to another mask; rebuild it")
    return found
