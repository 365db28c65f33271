"""Whether a transform is going on: of torch.func, forward-mode differentiation, a flop count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_functorch = torch._C._functorch


def is_fake(tensor: Tensor) -> bool:
    """Say whether a tensor is one of `FakeTensorMode`: of a real device, without values."""
    return isinstance(tensor, FakeTensor)


def has_values(tensor: Tensor) -> bool:
    """Say whether a tensor has values: not on the meta device, nor a fake one."""
    return not tensor.is_meta and not is_fake(tensor)


def is_recording() -> bool:
    """Say whether a program is being recorded, which would hold what is done beside it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def transformed(grad: Tensor | None = None) -> bool:
    """Say whether tensors are being transformed: torch.func, vmap, forward-mode derivatives.

    Then masks are applied by PyTorch's own ops, which have every derivative and batching rule. Ours
    have formulas for reverse mode alone, and forward mode would take their result for a constant.
    FlopCounterMode counts as one: it knows torch's own ops, and gets the flops of a dense layer.

    grad: of a backward, where `torch.autograd.grad(..., is_grads_batched=True)` puts gradients in a
    batch by the older vmap, which shows on the tensor alone.
    """
    if is_dynamo_compiling():
        return False
    if torch._C._len_torch_dispatch_stack() and _counting_flops():
        return True
    if grad is not None and _functorch.is_legacy_batchedtensor(grad):
        return True
    return _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _counting_flops() -> bool:
    # By name, as importing torch.utils.flop_counter imports triton.
    modes = _get_current_dispatch_mode_stack()
    return any(type(mode).__module__ == "torch.utils.flop_counter" for mode in modes)
