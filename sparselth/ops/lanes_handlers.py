"""The ops that run on lanes, by ATen overload. See `lanes_tensor.py`.

Handlers run below autograd and return what the ATen op would, or NotImplemented to leave the op
to the fallback. Fusion is laziness: a batch norm and an addition only note what is to be computed
(`AffineSum`), so that the ReLU after them computes all of it in one pass; a ReLU's backward notes
its gate (`MaskedGrad`), and a batch norm's backward or the addition of another branch's gradient
takes the gate along.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .lanes_layout import HALO, lanes
from .lanes_tensor import HANDLERS, LaneTensor
from .lanes_value import (
    NO_LIMIT,
    Affine,
    AffineSum,
    LaneBuffer,
    MaskedGrad,
    State,
    add_masked_grad,
    evaluate,
)

_aten = torch.ops.aten
_ops = torch.ops.sparselth


def handles(*overloads: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that registers a handler for some overloads."""

    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        HANDLERS.update(dict.fromkeys(overloads, handler))
        return handler

    return register


# --- getting at buffers ------------------------------------------------------------------------

_BUFFER = "sparselth.buffer"


def remember(x: Tensor, buffer: LaneBuffer) -> None:
    """Note that the activation `x` is there in lanes as well.

    Its graph node keeps the note: gone with the graph, and never on a tensor that the user fills,
    which could change unseen.
    """
    node: Any = x.grad_fn
    if node is not None:
        node.metadata[_BUFFER] = (x.output_nr, x._version, weakref.ref(buffer.data), buffer.halo)


def recall(x: Tensor) -> LaneBuffer | None:
    """Return the buffer of `x` if it was noted, is still alive and `x` has not changed."""
    node: Any = x.grad_fn
    if node is None or (note := node.metadata.get(_BUFFER)) is None:
        return None
    output, version, reference, halo = note
    data = reference()
    if data is None or output != x.output_nr or version != x._version:
        return None
    return LaneBuffer(data, halo)


def as_buffer(x: Tensor) -> LaneBuffer:
    """Return the values of an activation or gradient in lanes, converting if need be."""
    if isinstance(x, LaneTensor):
        buffer = x._value.buffer()
        if buffer is not None:
            return buffer
        x = x._value.read()
    else:
        buffer = recall(x)
        if buffer is not None:
            return buffer
    return LaneBuffer(_ops.to_lanes.default(x.contiguous(), lanes(x.dtype), HALO), HALO)


def is_in_lanes(x: Any) -> bool:
    return isinstance(x, LaneTensor) and x.is_in_lanes()


def _fits(x: Any, like: Tensor) -> bool:
    return isinstance(x, Tensor) and x.shape == like.shape and x.dtype == like.dtype


# --- batch norm -------------------------------------------------------------------------------


def _invstd(variance: Tensor, eps: float) -> Tensor:
    return (variance + eps).rsqrt()


@handles(_aten.native_batch_norm.default, _aten._native_batch_norm_legit.default)
def _(input, weight, bias, running_mean, running_var, training, momentum, eps):
    channel = (weight, bias, running_mean, running_var)
    if not input.is_in_lanes() or any(t is not None and t.dtype != input.dtype for t in channel):
        return NotImplemented
    count = input.numel() // input.shape[1]
    if count == 1 if training else running_mean is None or running_var is None:
        return NotImplemented  # ATen knows what to make of it
    buffer, batch = as_buffer(input), input.shape[0]
    if training:
        *saved, scale, shift = _ops.lanes_batch_norm.default(
            buffer.data, batch, buffer.halo, *channel, momentum, eps
        )
    else:
        saved = [input.new_empty(0), input.new_empty(0)]
        scale = _invstd(running_var, eps) if weight is None else _invstd(running_var, eps) * weight
        shift = -running_mean * scale
        if bias is not None:
            shift += bias
    return (input.like(AffineSum(Affine(buffer, scale, shift))), *saved)


@handles(_aten.native_batch_norm_backward.default)
def _(grad_out, input, weight, running_mean, running_var, mean, invstd, training, eps, wanted):
    if not is_in_lanes(input) or (weight is not None and weight.dtype != input.dtype):
        return NotImplemented
    if not training:
        mean, invstd = running_mean, _invstd(running_var, eps)
    grad, gate, upper = _split(grad_out)
    buffer = as_buffer(input)
    outs = _ops.lanes_batch_norm_backward.default(
        grad.data,
        grad.halo,
        *_gate_arguments(gate, buffer, input.shape[0]),
        upper,
        buffer.data,
        input.shape[0],
        buffer.halo,
        mean,
        invstd,
        weight,
        training,
        HALO,
    )
    grads = (LaneTensor.wrap(outs[0], input.shape[0], HALO), *outs[1:])
    return tuple(g if want else None for g, want in zip(grads, wanted, strict=True))


def _gate_arguments(
    gate: LaneBuffer | AffineSum | None, x: LaneBuffer, batch: int
) -> tuple[Tensor | None, int, Any, Any]:
    """Return a gate as batch norm's backward takes it, which reads `x` anyway."""
    if gate is None:
        return None, 0, None, None
    if isinstance(gate, AffineSum):
        (buffer, scale, shift), second = gate
        known = scale is not None and shift is not None
        if second is None and buffer.data is x.data and known:
            return None, 0, scale, shift
        gate = evaluate(gate, batch, relu=False)
    source = gate.source
    if source is not None and source.x() is x.data:
        return None, 0, source.scale, source.shift
    return gate.data, gate.halo, None, None


def _split(grad: Tensor) -> tuple[LaneBuffer, LaneBuffer | AffineSum | None, float]:
    """Return a gradient, the gate that is still to be applied to it, and the gate's limit."""
    if isinstance(grad, LaneTensor) and isinstance(grad._value.state, MaskedGrad):
        return grad._value.state
    return as_buffer(grad), None, NO_LIMIT


# --- ReLU, ReLU6 and addition -----------------------------------------------------------------


def _sum_of(x: Tensor) -> AffineSum:
    if isinstance(x, LaneTensor) and isinstance(x._value.state, AffineSum):
        return x._value.state
    return AffineSum(Affine(as_buffer(x)))


@handles(_aten.relu.default)
def _(x):
    if not x.is_in_lanes():
        return NotImplemented
    return x.like(evaluate(_sum_of(x), x._value.batch, relu=True))


@handles(_aten.relu_.default)
def _(x):
    if not x.is_in_lanes():
        return NotImplemented
    x._value.state = evaluate(_sum_of(x), x._value.batch, relu=True)
    return x


@handles(_aten.threshold_backward.default)
def _(grad_output, result, threshold):
    if threshold != 0 or not is_in_lanes(result) or not _fits(grad_output, result):
        return NotImplemented
    return result.like(MaskedGrad(as_buffer(grad_output), as_buffer(result), NO_LIMIT))


def _is_relu(lower: float, upper: float) -> bool:
    """Say whether hardtanh is a ReLU that cuts at `upper`, as ReLU6 is."""
    return lower == 0 and upper > 0


@handles(_aten.hardtanh.default)
def _(x, min_val=-1, max_val=1):
    if not x.is_in_lanes() or not _is_relu(min_val, max_val):
        return NotImplemented
    return x.like(evaluate(_sum_of(x), x._value.batch, True, max_val))


@handles(_aten.hardtanh_.default)
def _(x, min_val=-1, max_val=1):
    if not x.is_in_lanes() or not _is_relu(min_val, max_val):
        return NotImplemented
    x._value.state = evaluate(_sum_of(x), x._value.batch, True, max_val)
    return x


@handles(_aten.hardtanh_backward.default)
def _(grad_output, x, min_val, max_val):
    if not is_in_lanes(x) or not _is_relu(min_val, max_val) or not _fits(grad_output, x):
        return NotImplemented
    gate = x._value.state if isinstance(x._value.state, AffineSum) else as_buffer(x)
    return x.like(MaskedGrad(as_buffer(grad_output), gate, max_val))


def _added(a: Tensor, b: Tensor) -> State:
    for gradient, other in ((a, b), (b, a)):
        if isinstance(gradient, LaneTensor) and isinstance(gradient._value.state, MaskedGrad):
            return add_masked_grad(gradient._value.state, as_buffer(other), gradient._value.batch)
    first, second = _sum_of(a), _sum_of(b)
    if first.second is not None:
        first = AffineSum(Affine(as_buffer(a)))
    if second.second is not None:
        second = AffineSum(Affine(as_buffer(b)))
    return AffineSum(first.first, second.first)


def _addable(a: Any, b: Any, alpha: Any) -> bool:
    return alpha == 1 and (is_in_lanes(a) or is_in_lanes(b)) and _fits(b, a)


@handles(_aten.add.Tensor)
def _(a, b, *, alpha=1):
    if not isinstance(a, Tensor) or not _addable(a, b, alpha):
        return NotImplemented
    like: Any = a if is_in_lanes(a) else b
    return like.like(_added(a, b))


@handles(_aten.add_.Tensor)
def _(a, b, *, alpha=1):
    if not is_in_lanes(a) or not _addable(a, b, alpha):
        return NotImplemented
    a._value.state = _added(a, b)
    return a


def _scalable(x: Any, factor: Any) -> bool:
    # Neither 0 * inf nor 0 / 0 may come about in a halo.
    return is_in_lanes(x) and type(factor) in (int, float) and math.isfinite(factor)


@handles(_aten.mul.Tensor, _aten.mul.Scalar)
def _(x, factor):
    if not _scalable(x, factor):
        return NotImplemented
    buffer = as_buffer(x)
    return x.like(LaneBuffer(buffer.data * factor, buffer.halo))


@handles(_aten.div.Tensor, _aten.div.Scalar)
def _(x, divisor):
    if not _scalable(x, divisor) or divisor == 0:
        return NotImplemented
    buffer = as_buffer(x)
    return x.like(LaneBuffer(buffer.data / divisor, buffer.halo))


# --- sharing and copying ----------------------------------------------------------------------


@handles(_aten.detach.default, _aten.alias.default)
def _(x):
    return x.alias()


@handles(_aten.clone.default)
def _(x, *, memory_format=None):
    state = x._value.state
    if isinstance(state, Tensor):
        return LaneTensor.hold(state.clone(memory_format=memory_format))
    if memory_format not in (None, torch.preserve_format, torch.contiguous_format):
        return NotImplemented
    return x.like(state)  # buffers are never written to
