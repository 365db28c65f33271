"""What `torch.autocast` does to the arguments of a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Asked once: the question breaks the graph of torch.compile in torch 2.11.
_WITH_AUTOCAST = frozenset(
    kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind)
)


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return what `torch.autocast` casts to on a type of device; None where it is off."""
    if device not in _WITH_AUTOCAST or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def autocast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Return tensors as `torch.autocast` would hand them to a convolution on the device of `x`."""
    dtype = autocast_dtype(x.device.type)
    if dtype is None:
        return (x, *others)

    def cast(t: Tensor | None) -> Tensor | None:
        if t is None or not t.is_floating_point() or t.dtype == torch.float64:
            return t
        return t.to(dtype)

    return tuple(cast(t) for t in (x, *others))
