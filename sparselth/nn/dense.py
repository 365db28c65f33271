"""Masked modules that no sparse kernel serves: dense, with the mask applied and exact gradients."""

from __future__ import annotations

from typing import Any

import torch

from .module import MaskedModule
from .recording import recorded


class MaskedDense(MaskedModule):
    """A masked module without a kernel of its own: dense, with the mask applied."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return super().forward(*args, **kwargs)
        call = recorded(self, args, kwargs)
        if call is not None:
            return call
        with self._own_forward():
            return super().forward(*args, **kwargs)


class MaskedAttention(MaskedDense):
    """`nn.MultiheadAttention` whose input projections are kept on masks."""

    maskable = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
