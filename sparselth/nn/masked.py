"""MaskedConv2d and MaskedLinear: the plain modules, computing on kept weights only.

They subclass `nn.Conv2d` and `nn.Linear` and keep `weight` as the ordinary parameter with its
state-dict key; the mask is one bool buffer, `weight_mask`. What is derived from the mask (the
packed plan, the density, the choice between sparse and dense) is rebuilt when the mask changes
and never saved.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SparselthError
from ..ops import functional, reference
from ..ops.backends import prefer_dense
from ..ops.binding import bind_mask
from ..ops.blocked import accepts, blocked
from ..ops.checks import check_mask
from ..ops.plan import conv_plan

_DERIVED = ("_plan", "_density", "_mask_version")


class MaskedModule(nn.Module):
    """What a module with a masked `weight` does about its mask. Mixed into the two layers."""

    weight: Tensor
    weight_mask: Tensor
    _op: str
    _plain: type[nn.Module]

    _plan: Tensor | None
    _density: float
    _mask_version: int

    def set_mask(self, mask: Tensor) -> None:
        """Adopt `mask` (bool, the weight's shape): pruned weights become exactly zero.

        Raises SparselthError when shape, dtype or device do not fit the weight.
        """
        check_mask(mask, self.weight)
        self.register_buffer("weight_mask", mask.detach().clone())
        self.refresh_mask()

    @torch.no_grad()
    def refresh_mask(self) -> None:
        """Zero pruned weights and rebuild what is derived from the mask."""
        mask = self.weight_mask
        if mask.is_meta:  # no values yet: to_empty() and loading come first
            self._plan, self._density, self._mask_version = None, 1.0, mask._version
            return
        self.weight.masked_fill_(~mask, 0)
        self._plan = conv_plan(mask, getattr(self, "groups", 1))
        self._density = float(mask.sum()) / max(mask.numel(), 1)
        self._mask_version = mask._version
        bind_mask(self.weight, mask)

    @property
    def sparsity(self) -> float:
        """Share of pruned weights, in [0, 1]."""
        return 1.0 - self._density

    def _is_dense(self, x: Tensor) -> bool:
        # A mask edited in place, or loaded from a checkpoint, is noticed here. A compiled graph
        # cannot read version counters: edit masks outside of it.
        if not torch.compiler.is_compiling() and self._mask_version != self.weight_mask._version:
            self.refresh_mask()
        return prefer_dense(self._op, x.device, self._density)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.refresh_mask()  # the mask may have moved to another device
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.refresh_mask()

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # A dense checkpoint has no mask: keep ours.
        mask_key = prefix + "weight_mask"
        if mask_key in missing_keys:
            missing_keys.remove(mask_key)
        self.refresh_mask()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sparsity={self.sparsity:.4f}"


class MaskedConv2d(MaskedModule, nn.Conv2d):
    """`nn.Conv2d` whose weight is kept on a mask. Made by `sparsify`.

    x: (N, C_in, H, W) or (C_in, H, W); any stride, padding, padding mode, dilation, groups.
    """

    _op = "masked_conv2d"
    _plain = nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        padding = self.padding
        if self.padding_mode != "zeros" or isinstance(padding, str):
            # nn.Conv2d resolves "same" and the other modes into explicit pads, possibly uneven.
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
            padding = (0, 0)
        conv = (self.stride, padding, self.dilation, self.groups)
        if self._is_dense(x):
            return reference.masked_conv2d(x, self.weight, self.weight_mask, self.bias, None, *conv)
        if accepts(x):
            x = blocked(x)
        return functional.masked_conv2d(
            x, self.weight, self.weight_mask, self.bias, *conv, plan=self._plan
        )


class MaskedLinear(MaskedModule, nn.Linear):
    """`nn.Linear` whose weight is kept on a mask. Made by `sparsify`.  x: (..., C_in)."""

    _op = "masked_linear"
    _plain = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        if self._is_dense(x):
            return reference.masked_linear(x, self.weight, self.weight_mask, self.bias, None)
        return functional.masked_linear(
            x, self.weight, self.weight_mask, self.bias, plan=self._plan
        )


MASKED_TYPES: dict[type[nn.Module], type[MaskedModule]] = {
    nn.Conv2d: MaskedConv2d,
    nn.Linear: MaskedLinear,
}


def masked_type(module: nn.Module, name: str) -> type[MaskedModule]:
    """Return the masked class for a plain module.

    Raises SparselthError for a module that has none.
    """
    for plain, masked in MASKED_TYPES.items():
        if type(module) in (plain, masked):
            return masked
    known = ", ".join(t.__name__ for t in MASKED_TYPES)
    raise SparselthError(
        f"{name!r} belongs to a {type(module).__name__}; masks go on the weight of: {known}"
    )
