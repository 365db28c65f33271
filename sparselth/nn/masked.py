"""MaskedConv2d and MaskedLinear: the plain modules, computing on kept weights only.

They subclass `nn.Conv2d` and `nn.Linear` and keep `weight` as the ordinary parameter with its
state-dict key; the mask is one bool buffer, `weight_mask`. What is derived from the mask (the
packed plan, the density, the choices between sparse and dense) is rebuilt when the mask changes
and never saved.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SparselthError
from ..ops import choice as choosing
from ..ops import functional, reference
from ..ops.backends import forced
from ..ops.binding import bind_dense_passes, bind_mask
from ..ops.blocked import accepts, blocked, traceless
from ..ops.blocked_conv import BlockedConv2d
from ..ops.checks import check_mask
from ..ops.choice import Choice
from ..ops.masking import ApplyBits, bits_of
from ..ops.measure import Timings
from ..ops.mixed import DenseForwardConv2d, DenseForwardLinear
from ..ops.plan import conv_plan, density_of
from .entry import EntryConv2d

DERIVED = (
    *("_plan", "_density", "_work", "_mask_version", "_choices"),
    *("_dense_passes", "_bits", "_checked"),
)

# So many kinds of input are measured per mask; the fixed table serves the rest, lest a network that
# sees images of every size spends its time measuring.
_MEASURED_INPUTS = 16


class MaskedModule(nn.Module):
    """What a module with a masked `weight` does about its mask. Mixed into the two layers."""

    weight: Tensor
    weight_mask: Tensor
    _op: str
    _plain: type[nn.Module]

    _plan: Tensor | None
    _density: float
    _work: float
    _mask_version: int
    _choices: dict[tuple, Choice]
    _dense_passes: frozenset[str]
    _bits: Tensor | None
    _checked: tuple | None

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
        self._choices, self._dense_passes = {}, frozenset()
        self._bits = self._checked = None
        if mask.is_meta:  # no values yet: to_empty() and loading come first
            self._plan, self._density, self._work = None, 1.0, 1.0
            self._mask_version = mask._version
            return
        self.weight.masked_fill_(~mask, 0)
        self._plan = conv_plan(mask, getattr(self, "groups", 1))
        self._density = float(mask.sum()) / max(mask.numel(), 1)
        self._work = density_of(mask, self._plan)
        self._mask_version = mask._version
        bind_mask(self.weight, mask)

    @property
    def sparsity(self) -> float:
        """Share of pruned weights, in [0, 1]."""
        return 1.0 - self._density

    def choice(self, x: Tensor) -> Choice:
        """Return how an input like `x` is served: sparse or dense, and by which passes.

        The first input of its kind is measured, see `sparselth.use_choice`; later ones are looked
        up. It depends on which gradients are wanted.
        """
        return self._choose(*self._prepared(*functional.autocast(x)))

    def timings(self, x: Tensor) -> Timings | None:
        """Time sparse against dense for an input like `x`; None where nothing can be timed."""
        x, conv = self._prepared(*functional.autocast(x))
        self._notice_edits()
        if not choosing.measurable(self._op, x):
            return None
        return self._measured(x, conv)

    def _prepared(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return `x` as the op gets it, and the op's settings."""
        raise NotImplementedError

    def _measured(self, x: Tensor, conv: Any) -> Timings | None:
        raise NotImplementedError

    def _notice_edits(self) -> None:
        # A mask edited in place, or loaded from a checkpoint, is noticed here. A compiled graph
        # cannot read version counters: edit masks outside of it.
        if not torch.compiler.is_compiling() and self._mask_version != self.weight_mask._version:
            self.refresh_mask()

    def _choose(self, x: Tensor, conv: Any) -> Choice:
        self._notice_edits()
        # A mask that keeps everything leaves nothing to win.
        if self._density < 1.0 and choosing.measures(self._op, x):
            choice = self._look_up(x, conv)
        else:
            choice = choosing.fixed_choice(self._op, x, self._work)
            if torch.compiler.is_compiling():
                return choice
        if choice.dense_passes != self._dense_passes:
            bind_dense_passes(self._plan, choice.dense_passes)
            self._dense_passes = choice.dense_passes
        return choice

    def _masked_weight(self) -> Tensor:
        """Return the weight for dense passes, its mask applied in the cheapest way.

        A compiled graph applies any mask: one edited later is not noticed in it.
        """
        weight, mask = self.weight, self.weight_mask
        if torch.compiler.is_compiling() or forced() == "reference":
            return reference.masked(weight, mask)
        if self._density == 1.0:
            return weight
        if not traceless(weight):
            return reference.masked(weight, mask)
        if self._bits is None:
            self._bits = bits_of(mask, weight)
        return ApplyBits.apply(weight, self._bits)

    def _look_up(self, x: Tensor, conv: Any) -> Choice:
        wanted = choosing.wanted_passes(x, self.weight)
        arrives = choosing.needs_no_conversion(x)
        size = (choosing.rounded(x.shape[0]), *x.shape[1:])
        plain = x.is_contiguous()
        key = (size, x.dtype, plain, arrives, wanted, torch.get_num_threads())
        found = self._choices.get(key)
        if found is not None:
            return found
        measured = self._measured(x, conv) if len(self._choices) < _MEASURED_INPUTS else None
        if measured is None:
            return choosing.fixed_choice(self._op, x, self._work)
        found = self._choices[key] = choosing.decide(measured, wanted, arrives)
        return found

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.refresh_mask()  # the mask may have moved to another device
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in DERIVED}

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
        x, conv = self._prepared(x)
        x, weight, bias = functional.autocast(x, self.weight, self.bias)
        choice = self._choose(x, conv)
        mask = self.weight_mask
        if not choice.sparse:
            if choice.timings is not None and choosing.in_blocks(x):
                x = x.dense()  # once, for the forward and for the weight's gradient
            return reference.masked_conv2d(x, self._masked_weight(), None, bias, None, *conv)
        travels = x.device.type == "cpu" and (choice.timings is not None or accepts(x))
        if travels:
            x = blocked(x)
        if "forward" in choice.dense_passes:
            return DenseForwardConv2d.apply(x, weight, mask, bias, self._plan, *conv)
        kind = (x.shape, x.dtype, type(weight), weight.dtype)
        if travels and kind == self._checked:
            return BlockedConv2d.apply(x, weight, mask, bias, self._plan, *conv)
        # The first input of its kind goes through all checks.
        self._checked = kind if traceless(weight) else None
        return functional.masked_conv2d(x, weight, mask, bias, *conv, plan=self._plan)

    def _prepared(self, x: Tensor) -> tuple[Tensor, Any]:
        if x.dim() == 3:
            x = x.unsqueeze(0)
        padding = self.padding
        if self.padding_mode != "zeros" or isinstance(padding, str):
            # nn.Conv2d resolves "same" and the other modes into explicit pads, possibly uneven.
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
            padding = (0, 0)
        return x, (self.stride, padding, self.dilation, self.groups)

    def _measured(self, x: Tensor, conv: Any) -> Timings | None:
        weight = self.weight.detach().to(x.dtype)  # another under autocast
        return choosing.conv_timings(x, weight, self.weight_mask, self._plan, conv)


class MaskedLinear(MaskedModule, nn.Linear):
    """`nn.Linear` whose weight is kept on a mask. Made by `sparsify`.  x: (..., C_in)."""

    _op = "masked_linear"
    _plain = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = functional.autocast(x, self.weight, self.bias)
        choice = self._choose(x, None)
        mask = self.weight_mask
        if not choice.sparse:
            return reference.masked_linear(x, self._masked_weight(), None, bias, None)
        if "forward" in choice.dense_passes:
            rows = x.reshape(-1, weight.shape[1])
            out = DenseForwardLinear.apply(rows, weight, mask, bias, self._plan)
            return out.view(*x.shape[:-1], weight.shape[0])
        return functional.masked_linear(x, weight, mask, bias, plan=self._plan)

    def _prepared(self, x: Tensor) -> tuple[Tensor, Any]:
        return x, None

    def _measured(self, x: Tensor, conv: Any) -> Timings | None:
        return choosing.linear_timings(x, self.weight, self.weight_mask, self._plan)


MASKED_TYPES: dict[type[nn.Module], type[MaskedModule]] = {
    nn.Conv2d: MaskedConv2d,
    nn.Linear: MaskedLinear,
}


def masked_type(module: nn.Module, name: str) -> type[MaskedModule]:
    """Return the masked class for a plain module.

    Raises SparselthError for a module that has none.
    """
    kind = nn.Conv2d if isinstance(module, EntryConv2d) else type(module)
    for plain, masked in MASKED_TYPES.items():
        if kind in (plain, masked):
            return masked
    known = ", ".join(t.__name__ for t in MASKED_TYPES)
    raise SparselthError(
        f"{name!r} belongs to a {type(module).__name__}; masks go on the weight of: {known}"
    )
