"""The masked modules with sparse kernels: the plain ones, computing on kept weights only.

MaskedConv2d, MaskedConv1d and MaskedLinear choose between the sparse kernels and dense ones, per
input and pass; what no sparse kernel serves is in `dense.py`. What is derived from a mask (the
packed plan, the choices) is made anew when the mask changes and never saved.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.fx import Proxy

from ..ops import conv as public_conv
from ..ops import linear as public_linear
from ..ops.autocast import autocast
from ..ops.autograd.conv import MaskedConv2d as Convolve
from ..ops.autograd.linear import MaskedLinear as Multiply
from ..ops.autograd.registry import of_dtype
from ..ops.backends import implementation
from ..ops.contract import ConvSettings
from ..ops.kernel_choice import known
from ..ops.kernel_choice.decide import Choice
from ..ops.kernel_choice.measure_cpu import Timings
from ..ops.lanes.convert import can_use_lanes, enter_lanes
from ..ops.lanes.tensor import LaneTensor, in_lanes
from .choosing import ChoosingModule
from .classes import masked_parameter, shown_mask
from .geometry import as_images, prepared, settings_of
from .paths import kind_of
from .recording import recorded
from .service import Service
from .state import MaskState


class MaskedConvolution(ChoosingModule):
    """What MaskedConv2d and MaskedConv1d share: the kernels see images (N, C, H, W) of both."""

    _op = "masked_conv2d"
    _dims = 2

    # Whether a batch norm most likely takes the result, and then asks for its statistics; set by
    # `sparsify`. Speed depends on it, results only by rounding.
    feeds_norm = False

    groups: int
    padding_mode: Any
    bias: Any

    def forward(self, input: Tensor) -> Tensor:
        """Return y = conv(x, w * mask) + bias, by sparse or dense kernels as chosen for `input`.

        input: (N, C_in, *size) or (C_in, *size), float16, bfloat16, float32 or float64 as the
        weight, contiguous, channels_last or in lanes; the sizes are in pixels.
        Returns (N, C_out, *size) or (C_out, *size). On the CPU y may be in lanes, see
        `sparselth.ops.lanes.tensor.LaneTensor`: to its user a tensor like any other.

        Raises SparselthError on an input that does not fit, with sparse kernels; PyTorch's own
        errors otherwise.
        """
        if is_dynamo_compiling() or (path := self._known_path(input)) is None:
            return self._checked(input)
        bias: Tensor | None = self._parameters["bias"]
        state, choice, conv = self._states["weight"], path.choice, path.conv
        weight: Tensor = state.parameter
        mask = state.mask
        if not choice.sparse:
            return self._densely(input, self._kept(state), bias, conv, choice)
        x = input if input.dtype is path.dtype else input.to(path.dtype)
        if mask.is_cuda:
            weight, bias = of_dtype(weight, x), None if bias is None else of_dtype(bias, x)
        elif type(x) is not LaneTensor:
            x = enter_lanes(x)
        moments = self.feeds_norm and self.training
        return Convolve.apply(x, weight, bias, mask, path.plan, conv, choice.dense_passes, moments)

    def _checked(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._compiled(input)
        if isinstance(input, Proxy):
            return recorded(self, (input,), {})
        state = None if self._past_kernels() or torch.jit.is_tracing() else self._settled()
        if state is None:
            return self._conv_forward(input, self._masked(), self.bias)  # type: ignore[operator]
        if input.dim() == state.parameter.dim() - 1:
            return self._checked(input.unsqueeze(0)).squeeze(0)
        if input.dim() != state.parameter.dim():  # torch says what it takes
            return self._conv_forward(input, self._masked(), self.bias)  # type: ignore[operator]
        x, conv = self._prepared(input)
        weight, mask = as_images(state.parameter), as_images(state.mask)
        kind = kind_of(input, weight) if x is input and weight is state.parameter else None
        y = self._convolve(x, weight, mask, conv, state, kind)
        return y if weight is state.parameter else y.squeeze(2)

    def _convolve(
        self,
        x: Tensor,
        weight: Tensor,
        mask: Tensor,
        conv: ConvSettings,
        state: MaskState,
        kind: tuple | None,
    ) -> Tensor:
        """Convolve x (N, C_in, H, W) with a weight and mask (C_out, C_in / groups, kH, kW).

        kind: of `x`, where others like it may go the same way.
        """
        (x,), bias = autocast(x), self.bias
        service = self._service(state)
        choice = self._choose(x, conv, state, service)
        if not choice.sparse:
            self._leave_path(kind, x.dtype, state, service, conv, choice)
            dense = as_images(self._dense_weight(state))
            return self._densely(x, dense, bias, conv, choice)
        travels = x.device.type == "cpu" and (choice.timings is not None or can_use_lanes(x))
        cast = autocast(x, weight, bias)
        public_conv.check_conv2d(x, cast[1], mask, cast[2], *conv)
        implementation(self._op, x.device)  # whether a forced backend has it
        if travels:
            x = enter_lanes(x)
        else:
            x, weight, bias = cast  # in lanes they are not rounded
        moments = self.feeds_norm and self.training
        out = Convolve.apply(
            x, weight, bias, mask, service.plan, conv, choice.dense_passes, moments
        )
        if travels or x.is_cuda:
            self._leave_path(kind, x.dtype, state, service, conv, choice)
        return out

    @staticmethod
    def _densely(
        x: Tensor, weight: Tensor, bias: Tensor | None, conv: ConvSettings, choice: Choice
    ) -> Tensor:
        if choice.timings is not None and in_lanes(x):
            x = x.dense()  # once, for the forward and for the weight's gradient
        return F.conv2d(x, weight, bias, *conv)

    def _compiled(self, input: Tensor) -> Tensor:
        weight = self._slot("weight")
        can_be_sparse = "weight" in self._states and not torch.compiler.is_exporting()
        if can_be_sparse and input.dim() == weight.dim():
            mask = self._mask("weight")
            x, conv = self._prepared(input)
            sparse, plan = self._compiled_plan(x, self._geometry(), self.groups)
            if sparse:
                x, images, bias = autocast(x, as_images(weight), self.bias)
                y = public_conv.masked_conv2d(x, images, as_images(mask), bias, *conv, plan=plan)
                return y if weight.dim() == 4 else y.squeeze(2)
        return self._conv_forward(input, self._masked(), self.bias)  # type: ignore[operator]

    def _geometry(self) -> tuple:
        return (*settings_of(self, self._dims), self.groups, self.padding_mode)

    def _service(self, state: MaskState) -> Service:
        return state.service(self._geometry(), self.groups)

    def _prepared(self, x: Tensor) -> tuple[Tensor, Any]:
        if x.dim() < 2 + self._dims:
            x = x.unsqueeze(0)
        return prepared(self, x, self._dims)

    def _measured(self, x: Tensor, conv: Any, state: MaskState, anew: bool) -> Timings | None:
        weight = as_images(state.parameter.detach().to(x.dtype))  # another under autocast
        plan = self._service(state).plan
        return known.conv_timings(x, weight, as_images(state.mask), plan, conv, anew=anew)


class MaskedConv2d(MaskedConvolution, nn.Conv2d):
    """`nn.Conv2d` whose weight is kept on a mask.

    Made by `sparsify`; called by itself, with the arguments of `nn.Conv2d`, it is dense until
    `set_mask`. Any stride, padding, padding mode, dilation, groups.
    input: (N, C_in, H, W) or (C_in, H, W).
    weight: (C_out, C_in / groups, kH, kW).  weight_mask: bool, its shape, True keeps; a buffer.
    Whether sparse or dense kernels serve an input is chosen, see `sparselth.use_choice`.
    """

    _plain = nn.Conv2d
    weight = masked_parameter("weight")
    weight_mask = shown_mask("weight")


class MaskedConv1d(MaskedConvolution, nn.Conv1d):
    """`nn.Conv1d` whose weight is kept on a mask, by the kernels of images.

    Made by `sparsify`; called by itself, with the arguments of `nn.Conv1d`, it is dense until
    `set_mask`. Any stride, padding, padding mode, dilation, groups.
    input: (N, C_in, L) or (C_in, L).
    weight: (C_out, C_in / groups, K).  weight_mask: bool, its shape, True keeps; a buffer.
    """

    _plain = nn.Conv1d
    _dims = 1
    weight = masked_parameter("weight")
    weight_mask = shown_mask("weight")


class MaskedLinear(ChoosingModule, nn.Linear):
    """`nn.Linear` whose weight is kept on a mask.

    Made by `sparsify`; called by itself, with the arguments of `nn.Linear`, it is dense until
    `set_mask`.
    input: (..., C_in).
    weight: (C_out, C_in).  weight_mask: bool, its shape, True keeps; a buffer.
    Whether the sparse or the dense kernel serves an input is chosen, see `sparselth.use_choice`.
    """

    _op = "masked_linear"
    _plain = nn.Linear
    weight = masked_parameter("weight")
    weight_mask = shown_mask("weight")

    def forward(self, input: Tensor) -> Tensor:
        """Return y = x (w * mask)^T + bias, by the sparse or the dense kernel as chosen.

        input: (..., C_in), float16, bfloat16, float32 or float64 as the weight.
        Returns (..., C_out), the input's dtype, under autocast that one.

        Raises SparselthError on an input that does not fit, with the sparse kernel; PyTorch's own
        errors otherwise.
        """
        if is_dynamo_compiling() or (path := self._known_path(input)) is None:
            return self._checked(input)
        bias, state, choice = self._parameters["bias"], self._states["weight"], path.choice
        if not choice.sparse:
            return F.linear(input, self._kept(state), bias)
        shape, x = input.shape, input if input.dtype is path.dtype else input.to(path.dtype)
        rows = x if len(shape) == 2 else public_linear.as_rows(x)
        y = Multiply.apply(rows, state.parameter, bias, state.mask, path.plan, choice.dense_passes)
        return y if len(shape) == 2 else y.view(*shape[:-1], self.out_features)

    def _checked(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._compiled(input)
        if isinstance(input, Proxy):
            return recorded(self, (input,), {})
        recorded_or_nested = torch.jit.is_tracing() or input.is_nested
        state = None if recorded_or_nested or self._past_kernels() else self._settled()
        if state is None:
            return F.linear(input, self._masked(), self.bias)
        (x,), weight, bias = autocast(input), state.parameter, self.bias
        service = self._service(state)
        choice = self._choose(x, None, state, service)
        kind = kind_of(input, weight)
        if not choice.sparse:
            self._leave_path(kind, x.dtype, state, service, None, choice)
            return F.linear(x, self._dense_weight(state), bias)
        cast = autocast(x, weight, bias)  # as it is checked; the op does not need it rounded
        mask, plan = state.mask, service.plan
        public_linear.check_linear(x, cast[1], mask, cast[2])
        implementation(self._op, x.device)  # whether a forced backend has it
        rows = public_linear.as_rows(x)
        out = Multiply.apply(rows, weight, bias, mask, plan, choice.dense_passes)
        self._leave_path(kind, x.dtype, state, service, None, choice)
        return out.view(*x.shape[:-1], weight.shape[0])

    def _compiled(self, input: Tensor) -> Tensor:
        if "weight" in self._states and not torch.compiler.is_exporting():
            x, weight, bias = autocast(input, self._slot("weight"), self.bias)
            sparse, plan = self._compiled_plan(x, None, 1)
            if sparse:
                return public_linear.masked_linear(x, weight, self._mask("weight"), bias, plan=plan)
        return F.linear(input, self._masked(), self.bias)

    def _service(self, state: MaskState) -> Service:
        return state.service(None, 1)

    def _prepared(self, x: Tensor) -> tuple[Tensor, Any]:
        return x, None

    def _measured(self, x: Tensor, conv: Any, state: MaskState, anew: bool) -> Timings | None:
        plan = self._service(state).plan
        weight = state.parameter.detach().to(x.dtype)  # another under autocast
        return known.linear_timings(x, weight, state.mask, plan, anew=anew)
