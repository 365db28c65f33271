"""A dense first convolution that hands its result on in the layout of the masked ones."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ..ops.autocast import autocast
from ..ops.autograd.conv import MaskedConv2d
from ..ops.kernel_choice import decide as choosing
from ..ops.kernel_choice import known
from ..ops.lanes.convert import enter_lanes, is_plain_eager_cpu
from ..ops.plan import conv_plan, plannable
from .classes import become
from .geometry import settings_of
from .recording import NotScriptable, recorded

# Weights per output: with few, dense convolution is inefficient and the kernels on lanes, which
# multiply one weight with 16 images, are not.
_FEW = 64

_DERIVED = ("_everything", "_enters")

# So many kinds of input are measured; others are computed densely.
_MEASURED_INPUTS = 16


class StemConv2d(NotScriptable, nn.Conv2d):
    """`nn.Conv2d` whose result may come in lanes, for the batch norm after it.

    Made by `sparsify` of a first convolution that stays dense, with the arguments and the state
    dict of `nn.Conv2d`. Where choices are measured (`sparselth.use_choice`), the first input of a
    shape is timed: the kernels on lanes, against dense convolution and the change of layout that
    its result would need.
    """

    # Derived from the weight's shape, and never saved.
    _everything: tuple[Tensor, Tensor | None, int] | None = None
    _enters: dict[tuple, bool] | None = None

    @classmethod
    def suits(cls, module: nn.Module | None, following: nn.Module | None) -> bool:
        """Say whether `module` is a convolution of few inputs before a batch norm.

        following: the module after it, or None. Few are at most 64 weights per output.
        """
        return (
            type(module) is nn.Conv2d
            and isinstance(following, nn.BatchNorm2d)
            and following.num_features == module.out_channels
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and prod(module.weight.shape[1:]) <= _FEW
            and plannable(module.weight.shape, module.groups)
        )

    def make_plain(self) -> None:
        """Turn into an `nn.Conv2d` again, in place."""
        for name in _DERIVED:
            self.__dict__.pop(name, None)
        become(self, nn.Conv2d)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of `input` (N, C_in, H, W) or (C_in, H, W), in lanes if chosen."""
        if isinstance(input, Proxy):
            return recorded(self, (input,), {})
        conv = (*settings_of(self, 2), self.groups)
        (x,) = autocast(input)
        if not self._in_lanes(x, conv):
            return super().forward(input)
        mask, plan = self._mask_and_plan()
        return MaskedConv2d.apply(enter_lanes(x), self.weight, self.bias, mask, plan, conv)

    def _in_lanes(self, x: Tensor, conv: Any) -> bool:
        if (
            x.dim() != 4
            or self.padding_mode != "zeros"  # both as `suits` saw them, but may be set
            or isinstance(self.padding, str)
            or choosing.in_lanes(x)
            or not choosing.measures("masked_conv2d", x)
            or not is_plain_eager_cpu(self.weight)
        ):
            return False
        if self._enters is None:
            self._enters = {}
        wanted = choosing.wanted_passes(x, self.weight)
        size = (known.rounded(x.shape[0]), *x.shape[1:])
        dtypes = (x.dtype, self.weight.dtype)
        key = (conv, size, dtypes, known.layout_of(x), wanted, torch.get_num_threads())
        if key not in self._enters and len(self._enters) < _MEASURED_INPUTS:
            _, weight = autocast(x, self.weight.detach())
            timings = known.conv_timings(x, weight, *self._mask_and_plan(), conv)
            self._enters[key] = timings is not None and choosing.decide_stem(timings, wanted)
        return self._enters.get(key, False)

    def _mask_and_plan(self) -> tuple[Tensor, Tensor | None]:
        shape, known = self.weight.shape, self._everything
        if known is None or (known[0].shape, known[2]) != (shape, self.groups):
            with torch.inference_mode(False):  # training reuses what evaluation derived
                mask = torch.ones(shape, dtype=torch.bool, device=self.weight.device)
                known = self._everything = (mask, conv_plan(mask, self.groups), self.groups)
        return known[:2]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in _DERIVED}
