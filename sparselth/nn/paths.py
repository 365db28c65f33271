"""The short way through a masked layer: what was checked and chosen once is looked up.

The first forward of a kind of input goes through every check, makes the choice and leaves a `Path`.
Later ones of its kind take that, as long as nothing else is going on (a program recorded, a
transform), nobody wrote to the weight or its mask, and the layer's settings
stay.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..ops.autocast import autocast_dtype
from ..ops.kernel_choice.decide import Choice
from ..ops.lanes.tensor import LaneTensor, in_lanes
from ..ops.switches import settings

# So many kinds are kept for a layer; one that sees images of every size finds few of them again.
MOST_PATHS = 64

# Asked in every forward, and bound here: each is a call into C, and no frame of Python.
_modes = torch._C._len_torch_dispatch_stack
_transform = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._is_tracing
_autocast = torch._C._is_any_autocast_enabled


class Path(NamedTuple):
    """How a layer computes one kind of input.

    derived: what it belongs to, renewed with the mask.  geometry: the layer's settings.
    dtype: of x as it is computed with, another than its own under autocast.
    plan, conv: as the op takes them.  choice: sparse or dense, and by which passes.
    """

    derived: Any
    geometry: tuple
    dtype: torch.dtype
    plan: Tensor | None
    conv: Any
    choice: Choice


def kind_of(x: Tensor, weight: Tensor) -> tuple | None:
    """Return what checks and a choice depend on, besides the layer; None where more is going on."""
    if (
        _modes()
        or _tracing()
        or forward_ad._current_level >= 0
        or _transform() is not None
        or type(weight) is not torch.nn.Parameter
    ):
        return None
    cast = None
    if _autocast():
        cast = autocast_dtype(x.device.type)
    kind = type(x)
    if kind is LaneTensor:
        if not in_lanes(x):
            return None
    elif kind is not Tensor or x.is_nested:
        return None
    return (
        kind,
        x.shape,
        x.dtype,
        x.device,
        x.layout,
        x.is_contiguous(),
        x.requires_grad,
        cast,
        weight.dtype,
        weight.requires_grad,
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        settings(),
    )


def kind_after(kind: tuple, shape: tuple[int, ...], requires_grad: bool, weight: Tensor) -> tuple:
    """Return the kind of a result in lanes that a layer of `weight` gets, without having it.

    kind: of what it is computed from, in the same dtype.  shape: of the result.
    """
    own = (LaneTensor, shape, *kind[2:5], True, requires_grad, kind[7])
    return (*own, weight.dtype, weight.requires_grad, *kind[10:])
