"""Batch norm of lanes, forward and backward: what is computed is left to the ReLU after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...contract import OPS, compute_dtype
from ..buffers import as_buffer
from ..handling import handles
from ..layout import halo
from ..tensor import LaneTensor, in_lanes
from ..value import (
    NO_LIMIT,
    Affine,
    AffineSum,
    LaneBuffer,
    MaskedGrad,
    evaluate,
)

_aten = torch.ops.aten


def _computed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is per channel as the ops in lanes take it."""
    return values if values.dtype == dtype else values.to(dtype)


def _invstd(variance: Tensor, eps: float) -> Tensor:
    return (variance + eps).rsqrt()


@handles(
    *(_aten.native_batch_norm.default, _aten._native_batch_norm_legit.default),
    takes="parameters and statistics of the dtype of its input, or float32 with 16 bits",
)
def _(input, weight, bias, running_mean, running_var, training, momentum, eps):
    given = (weight, bias, running_mean, running_var)
    dtype = compute_dtype(input.dtype)
    if not in_lanes(input) or any(
        t is not None and t.dtype not in (input.dtype, dtype) for t in given
    ):
        return NotImplemented
    channel = [None if t is None else _computed(t, dtype) for t in given]
    weight, bias, mean, variance = channel
    count = input.numel() // input.shape[1]
    if count == 1 if training else running_mean is None or running_var is None:
        return NotImplemented  # ATen knows what to make of it
    buffer, batch = as_buffer(input), input.shape[0]
    if training:
        *saved, scale, shift = OPS.lanes_batch_norm.default(
            buffer.data, batch, buffer.halo, *channel, momentum, eps, buffer.moments
        )
        for statistic, updated in zip(given[2:], channel[2:], strict=True):
            if updated is not statistic:
                statistic.copy_(updated)
    else:
        assert mean is not None  # as asked above
        assert variance is not None
        saved = [variance.new_empty(0), variance.new_empty(0)]
        scale = _invstd(variance, eps) if weight is None else _invstd(variance, eps) * weight
        shift = -mean * scale
        if bias is not None:
            shift += bias
    return (input.like(AffineSum(Affine(buffer, scale, shift))), *saved)


@handles(_aten.native_batch_norm_backward.default)
def _(grad_out, input, weight, running_mean, running_var, mean, invstd, training, eps, output_mask):
    dtype = compute_dtype(input.dtype)
    if not in_lanes(input) or (weight is not None and weight.dtype not in (input.dtype, dtype)):
        return NotImplemented
    weight = None if weight is None else _computed(weight, dtype)
    if not training:
        mean = _computed(running_mean, dtype)
        invstd = _invstd(_computed(running_var, dtype), eps)
    grad, gate, upper = _split(grad_out)
    buffer, around = as_buffer(input), halo(input.dtype)
    outs = OPS.lanes_batch_norm_backward.default(
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
        around,
    )
    grads = (LaneTensor.wrap(outs[0], input.shape[0], around), *outs[1:])
    return tuple(g if want else None for g, want in zip(grads, output_mask, strict=True))


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
