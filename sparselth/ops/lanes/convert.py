"""Activations in the layout of the CPU kernels, kept from one accelerated module to the next.

`enter_lanes` turns an activation into a `LaneTensor` where `can_use_lanes` says that this pays and
is possible. The user keeps seeing (N, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import libraries
from ..transforms import transformed
from . import handlers  # noqa: F401  # registers them
from .buffers import as_buffer, remember
from .tensor import LaneTensor, in_lanes

_PLAIN = (Tensor, torch.nn.Parameter, LaneTensor)

# What activations travel in, and what they are computed in.
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_COMPUTED = DTYPES[2:]


def can_use_lanes(x: Tensor) -> bool:
    """Say whether `x` may travel in lanes: (N, C, H, W), N > 0, of `DTYPES`, on the CPU.

    Not while a program is recorded or transformed: the conversion would stay out of it.
    """
    return (
        is_plain_eager_cpu(x, DTYPES)
        and x.dim() == 4
        and libraries.has_kernel("lanes_conv2d", "cpu")
    )


def is_plain_eager_cpu(x: Tensor, dtypes: tuple[torch.dtype, ...] = _COMPUTED) -> bool:
    """Say whether what is done to `x` besides calling ops goes unnoticed.

    x: not empty, of `dtypes`, on the CPU, and `is_eager`.
    """
    return (
        is_eager(x)
        and x.device.type == "cpu"
        and x.numel() > 0
        and x.dtype in dtypes
        and x.layout is torch.strided
    )


def is_eager(x: Tensor) -> bool:
    """Say whether `x` is an ordinary tensor and no program is recorded or transformed.

    That is: no torch.compile, torch.jit.trace, torch.func, forward-mode differentiation or
    dispatch mode.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # first: it warns about what is asked of shapes
        and type(x) in _PLAIN
        and not transformed()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def enter_lanes(x: Tensor) -> LaneTensor:
    """Return `x` in lanes, differentiably; `x` itself if it is already.

    x: (N, C, H, W), contiguous or channels_last, of `DTYPES`, on the CPU: `can_use_lanes` must
    hold, which is not asked again. The gradient of a leaf is a plain tensor; that of another tensor
    stays in lanes, so that branches that meet there are added before they are converted.
    """
    if in_lanes(x):
        return x
    if not (x.requires_grad and torch.is_grad_enabled()):
        return as_lanes(x)
    out = _EnterLanes.apply(x)
    remember(x, out._value.state)
    return out


def as_lanes(x: Tensor) -> LaneTensor:
    """Return `x` in lanes, below autograd: gradients do not lead back to it.  x: (N, C, H, W)."""
    buffer = as_buffer(x)
    return LaneTensor.wrap(buffer.data, x.shape[0], buffer.halo)


class _EnterLanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> LaneTensor:
        ctx.is_leaf = x.is_leaf
        return as_lanes(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.dense() if ctx.is_leaf and isinstance(grad, LaneTensor) else grad
