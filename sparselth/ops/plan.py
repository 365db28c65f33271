"""A mask's packed indices, built when the mask changes and reused by every pass.

On the CPU the plan is one int32 vector: a header, then the kept weights by output channel, then the
same weights by input channel for the input gradient. csrc/common/plan.h holds the exact layout. A
GPU has none: its kernels are found by the mask, see `gpu/candidates.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import SparselthError
from . import derived, libraries
from .contract import NAMESPACE
from .gpu.candidates import candidates_for
from .gpu.kernel import has_cuda_kernels
from .gpu.linear import as_kernels
from .gpu.triton_support import why_missing
from .transforms import has_values

# Bits of a plan's entry that hold the tap; the rest hold the channel. As in csrc/common/plan.h.
_TAP_BITS = 12


def plannable(shape: Sequence[int], groups: int = 1) -> bool:
    """Say whether the 32 bits of a plan on the CPU hold the indices of a mask of this shape.

    The kernels there take no other: such layers are computed densely.
    """
    taps = math.prod(shape[2:])
    channels = max(shape[0], shape[1] * groups)
    fits = taps < 1 << _TAP_BITS and channels < 1 << (31 - _TAP_BITS)
    return fits and math.prod(shape) < 1 << 31


def takes_plan(mask: Tensor, groups: int = 1) -> bool:
    """Say whether kernels take a plan of `mask`, and there is what builds it.

    Not where it has no values, on the meta device or fake.
    """
    on_cpu = mask.device.type == "cpu" and libraries.host() is not None
    return on_cpu and plannable(mask.shape, groups) and has_values(mask)


def conv_plan(mask: Tensor, groups: int = 1) -> Tensor | None:
    """Build the plan of a convolution or linear mask.

    mask: (C_out, C_in / groups, kH, kW), (C_out, C_in / groups, K) or (C_out, C_in), bool.
    Returns int32 (length,), or None where no kernel takes a plan: another device than the CPU, a
    package without what builds it, or a weight that is not `plannable`. Kernels accept None.
    """
    if mask.dim() == 3:
        mask = mask.unsqueeze(2)  # images one pixel high
    host = libraries.host()
    if host is None or mask.device.type != "cpu" or not plannable(mask.shape, groups):
        return None
    shape = tuple(mask.shape) if mask.dim() == 4 else (*mask.shape, 1, 1)
    return torch.from_numpy(host.conv_plan(mask.contiguous().view(shape).numpy(), groups))


def plan_of(mask: Tensor, groups: int = 1) -> Tensor | None:
    """Return the plan of a mask, as `conv_plan`; built anew when the mask was edited.

    mask: no inference tensor.  None also for one without values, on the meta device or fake.
    """
    if not has_values(mask):
        return None
    found = derived.recall(mask, ("plan", groups))
    if found is None:
        with torch.inference_mode(False):  # training reuses what evaluation derived
            found = (conv_plan(mask, groups),)
        derived.note(mask, ("plan", groups), found)
    return found[0]


def forget_plan(mask: Tensor) -> None:
    """Forget the plan of a mask that may have changed without its version counter."""
    derived.forget(mask)


# A compiled program holds tensors, not version counters: the plan is looked up while it runs.
torch.library.define(f"{NAMESPACE}::mask_plan", "(Tensor mask, int groups) -> Tensor")


def _mask_plan(mask: Tensor, groups: int) -> Tensor:
    if mask is None:
        raise SparselthError("mask_plan takes a bool mask, got None")
    if mask.dtype != torch.bool or not 2 <= mask.dim() <= 4 or groups < 1 or len(mask) % groups:
        raise SparselthError(
            "mask_plan takes a bool mask of 2 to 4 dimensions and groups that divide its outputs, "
            f"got {mask.dtype} of shape {tuple(mask.shape)} and groups={groups}"
        )
    # An inference tensor has no version counter to know a plan again by.
    plan = conv_plan(mask, groups) if mask.is_inference() else plan_of(mask, groups)
    if plan is None:
        raise SparselthError(f"masks on {mask.device} have no plan here: no kernel takes one")
    return plan.clone()  # a program may write to what its ops return


torch.library.register_kernel(f"{NAMESPACE}::mask_plan", None, _mask_plan)


@torch.library.register_fake(f"{NAMESPACE}::mask_plan")
def _(mask, groups):
    length = torch.library.get_ctx().new_dynamic_size()
    return mask.new_empty(length, dtype=torch.int32)


def work_of(mask: Tensor, groups: int = 1) -> float:
    """Return what sparse kernels should take, as a share of dense's time or work, in [0, 1].

    mask: as in `conv_plan`. On a GPU the time that the kernel which serves it should take. Else the
    share of the weight that is kept. 1 for a mask without values, which dense
    kernels serve.
    """
    if not has_values(mask):
        return 1.0
    if mask.device.type == "cuda" and (not why_missing() or has_cuda_kernels()):
        images = as_kernels(mask) if mask.dim() == 2 else mask
        images = images.unsqueeze(2) if mask.dim() == 3 else images
        return candidates_for(images, groups).relative_time
    return float(mask.count_nonzero()) / max(mask.numel(), 1)
