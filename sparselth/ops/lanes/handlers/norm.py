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
_lanes_batch_norm = OPS.lanes_batch_norm.default
_lanes_batch_norm_backward = OPS.lanes_batch_norm_backward.default


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
    count = input.numel() // input.shape[1]
    if count == 1 if training else running_mean is None or running_var is None:
        return NotImplemented  # ATen knows what to make of it
    batch = input._value.batch
    w, b, mean, variance = channel
    affine, *saved = normalized(
        as_buffer(input), batch, w, b, mean, variance, training, momentum, eps
    )
    if training:
        for statistic, updated in zip(given[2:], channel[2:], strict=True):
            if updated is not statistic:
                statistic.copy_(updated)
    return (input.like(AffineSum(affine)), *saved)


def normalized(
    x: LaneBuffer,
    batch: int,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Affine, Tensor, Tensor]:
    """Return the batch norm of a buffer, not computed yet, and what its backward needs.

    The arguments are those of `torch.nn.functional.batch_norm`, in what `x` is computed in.
    Returns also mean and invstd of the batch, (C,) each; empty outside of training.
    """
    if training:
        channel = (weight, bias, running_mean, running_var)
        mean, invstd, scale, shift = _lanes_batch_norm(
            x.data, batch, x.halo, *channel, momentum, eps, x.moments
        )
        return Affine(x, scale, shift), mean, invstd
    assert running_mean is not None  # as asked by whoever calls
    assert running_var is not None
    scale = _invstd(running_var, eps)
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift += bias
    nothing = running_var.new_empty(0)
    return Affine(x, scale, shift), nothing, nothing


@handles(_aten.native_batch_norm_backward.default)
def _(grad_out, input, weight, running_mean, running_var, mean, invstd, training, eps, output_mask):
    dtype = compute_dtype(input.dtype)
    if not in_lanes(input) or (weight is not None and weight.dtype not in (input.dtype, dtype)):
        return NotImplemented
    weight = None if weight is None else _computed(weight, dtype)
    if not training:
        mean = _computed(running_mean, dtype)
        invstd = _invstd(_computed(running_var, dtype), eps)
    batch = input._value.batch
    grad, *rest = norm_gradients(
        *split(grad_out), as_buffer(input), batch, mean, invstd, weight, training
    )
    grads = (LaneTensor.of(grad, batch), *rest)
    return tuple(g if want else None for g, want in zip(grads, output_mask, strict=True))


def norm_gradients(
    grad: LaneBuffer,
    gate: LaneBuffer | AffineSum | None,
    upper: float,
    x: LaneBuffer,
    batch: int,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    training: bool,
) -> tuple[LaneBuffer, Tensor, Tensor]:
    """Return the gradients of a batch norm: of x, weight and bias.

    grad, gate, upper: as of `MaskedGrad`; no gate, no ReLU.  x: what the norm was given.
    mean, invstd, weight: (C,), in what `x` is computed in, of the batch where `training`.
    """
    around = halo(x.data.dtype)
    dx, dw, db = _lanes_batch_norm_backward(
        *(grad.data, grad.halo, *_gate_arguments(gate, x, batch), upper),
        *(x.data, batch, x.halo, mean, invstd, weight, training, around),
    )
    return LaneBuffer(dx, around), dw, db


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


def split(grad: Tensor) -> tuple[LaneBuffer, LaneBuffer | AffineSum | None, float]:
    """Return a gradient, the gate that is still to be applied to it, and the gate's limit."""
    if isinstance(grad, LaneTensor) and isinstance(grad._value.state, MaskedGrad):
        return grad._value.state
    return as_buffer(grad), None, NO_LIMIT
