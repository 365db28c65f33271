"""Activations in the layout of the CPU kernels, kept from one accelerated module to the next.

`blocked` turns an activation into a `BlockedTensor` where `accepts` says that this pays and is
possible. The user keeps seeing (N, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backends, blocked_conv, blocked_pool  # noqa: F401  # register their handlers
from .blocked_handlers import blocks_of, remember
from .blocked_tensor import BlockedTensor
from .transforms import transformed

_PLAIN = (Tensor, torch.nn.Parameter, BlockedTensor)


def accepts(x: Tensor) -> bool:
    """Say whether `x` may travel in blocks: (N, C, H, W), N > 0, float32 or float64, on the CPU.

    Not while a program is recorded or transformed: the conversion would stay out of it.
    """
    return traceless(x) and x.dim() == 4 and backends.compiled("blocked_conv2d", "cpu")


def traceless(x: Tensor) -> bool:
    """Say whether what is done to `x` besides calling ops goes unnoticed.

    x: not empty, float32 or float64, on the CPU, and `untraced`.
    """
    return (
        untraced(x)
        and x.device.type == "cpu"
        and x.numel() > 0
        and x.dtype in (torch.float32, torch.float64)
        and x.layout is torch.strided
    )


def untraced(x: Tensor) -> bool:
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


def blocked(x: Tensor) -> BlockedTensor:
    """Return `x` in blocks, differentiably; `x` itself if it is already.

    x: (N, C, H, W), see `accepts`. The gradient of a leaf is a plain tensor; that of another
    tensor stays in blocks, so that branches that meet there are added before they are converted.
    """
    if isinstance(x, BlockedTensor) and x.is_blocked():
        return x
    if not (x.requires_grad and torch.is_grad_enabled()):
        return as_blocks(x)
    out = _Blocked.apply(x)
    remember(x, out._cell.state)
    return out


def as_blocks(x: Tensor) -> BlockedTensor:
    """Return `x` in blocks, below autograd."""
    block = blocks_of(x)
    return BlockedTensor.wrap(block.data, x.shape[0], block.halo)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> BlockedTensor:
        ctx.is_leaf = x.is_leaf
        return as_blocks(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.dense() if ctx.is_leaf and isinstance(grad, BlockedTensor) else grad
