"""ReLU, ReLU6, addition and scaling of lanes: noted, and joined by what follows if it can."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..buffers import as_buffer, same_shape_dtype
from ..handling import handles
from ..tensor import LaneTensor, in_lanes
from ..value import (
    NO_LIMIT,
    Activation,
    Affine,
    AffineSum,
    LaneBuffer,
    MaskedGrad,
    State,
    add_masked_grad,
)

_aten = torch.ops.aten

# What they do not decline.
_LIMITS = "a lower limit of 0 and an upper one above it, as ReLU6 has"
_TERMS = "two tensors of one shape and dtype, and alpha=1"
_FACTORS = "a finite number for the other factor"


def _sum_of(x: Tensor) -> AffineSum:
    if isinstance(x, LaneTensor) and isinstance(x._value.state, AffineSum):
        return x._value.state
    return AffineSum(Affine(as_buffer(x)))


@handles(_aten.relu.default)
def _(x):
    if not in_lanes(x):
        return NotImplemented
    return x.like(Activation(_sum_of(x), NO_LIMIT))


@handles(_aten.relu_.default)
def _(x):
    if not in_lanes(x):
        return NotImplemented
    x._value.state = Activation(_sum_of(x), NO_LIMIT)
    return x


def _gate(x: Tensor, upper: float) -> LaneBuffer | AffineSum:
    """Return what opens a ReLU up to `upper` of which `x` is the input or the result."""
    state = x._value.state if isinstance(x, LaneTensor) else None
    # What was cut lower opens it, where the sum before the cut may be too large.
    if isinstance(state, Activation) and state.total.second is None and not state.upper < upper:
        buffer, scale, shift = state.total.first
        return buffer if scale is None and shift is None else state.total
    return state if isinstance(state, AffineSum) else as_buffer(x)


@handles(_aten.threshold_backward.default)
def _(grad_output, result, threshold):
    if threshold != 0 or not in_lanes(result) or not same_shape_dtype(grad_output, result):
        return NotImplemented
    return result.like(MaskedGrad(as_buffer(grad_output), _gate(result, NO_LIMIT), NO_LIMIT))


def _is_relu(lower: float, upper: float) -> bool:
    """Say whether hardtanh is a ReLU that cuts at `upper`, as ReLU6 is."""
    return lower == 0 and upper > 0


@handles(_aten.hardtanh.default, takes=_LIMITS)
def _(x, min_val=-1, max_val=1):
    if not in_lanes(x) or not _is_relu(min_val, max_val):
        return NotImplemented
    return x.like(Activation(_sum_of(x), max_val))


@handles(_aten.hardtanh_.default, takes=_LIMITS)
def _(x, min_val=-1, max_val=1):
    if not in_lanes(x) or not _is_relu(min_val, max_val):
        return NotImplemented
    x._value.state = Activation(_sum_of(x), max_val)
    return x


@handles(_aten.hardtanh_backward.default)
def _(grad_output, x, min_val, max_val):
    if not in_lanes(x) or not _is_relu(min_val, max_val) or not same_shape_dtype(grad_output, x):
        return NotImplemented
    return x.like(MaskedGrad(as_buffer(grad_output), _gate(x, max_val), max_val))


def added(a: Tensor, b: Tensor) -> State:
    """Return the sum of two activations or gradients, of which one is in lanes."""
    for gradient, other in ((a, b), (b, a)):
        if isinstance(gradient, LaneTensor) and isinstance(gradient._value.state, MaskedGrad):
            return add_masked_grad(gradient._value.state, as_buffer(other), gradient._value.batch)
    return AffineSum(term(a), term(b))


def term(x: Tensor) -> Affine:
    """Return an activation as one term of a sum: a norm that is not computed as it is."""
    total = _sum_of(x)
    return total.first if total.second is None else Affine(as_buffer(x))


def _addable(a: Any, b: Any, alpha: Any) -> bool:
    return alpha == 1 and (in_lanes(a) or in_lanes(b)) and same_shape_dtype(b, a)


@handles(_aten.add.Tensor, takes=_TERMS)
def _(a, b, *, alpha=1):
    if not isinstance(a, Tensor) or not _addable(a, b, alpha):
        return NotImplemented
    like: Any = a if in_lanes(a) else b
    return like.like(added(a, b))


@handles(_aten.add_.Tensor, takes=_TERMS)
def _(a, b, *, alpha=1):
    if not in_lanes(a) or not _addable(a, b, alpha):
        return NotImplemented
    a._value.state = added(a, b)
    return a


def _scalable(x: Any, factor: Any) -> bool:
    # Neither 0 * inf nor 0 / 0 may come about in a halo.
    return in_lanes(x) and type(factor) in (int, float) and math.isfinite(factor)


@handles(_aten.mul.Tensor, _aten.mul.Scalar, takes=_FACTORS)
def _(x, factor):
    if not _scalable(x, factor):
        return NotImplemented
    buffer = as_buffer(x)
    return x.like(LaneBuffer(buffer.data * factor, buffer.halo))


@handles(_aten.div.Tensor, _aten.div.Scalar, takes=_FACTORS)
def _(x, divisor):
    if not _scalable(x, divisor) or divisor == 0:
        return NotImplemented
    buffer = as_buffer(x)
    return x.like(LaneBuffer(buffer.data / divisor, buffer.halo))
