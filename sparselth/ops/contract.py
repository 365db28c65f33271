"""The contract of every op: schema and fake kernel; `autograd.py` has the derivatives.

Everything a backend has to agree on stands here, in Python (and, for the ops that only see
activations in lanes, in `contract_lanes.py`). `reference.py` registers the plain
PyTorch oracle as the default kernel of each op; compiled libraries override it by dispatch key
(`STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m)` in csrc/). The public functions in `functional.py`
check for the user, in words; every kernel compares its arguments again, `arguments.py` and
csrc/common/checks.h, because the ops can be called past them.

Conventions shared by all ops
    mask     bool, the shape of the weight it belongs to; True keeps the weight.
    plan     int32 or None. The mask's packed indices, see `sparselth.ops.plan`; a kernel that
             wants one and gets None builds it itself.
    k        number of entries kept, exactly; ties go to the lowest flat index.
    pooled   False: one selection per tensor, `k` has one entry per tensor.
             True: one selection over all tensors in list order, `k` has one entry.
    pattern  what `k` counts, a pattern of `patterns.py` encoded; tensors are seen as contiguous
             (out, in, taps):
             []               single entries, ranked by magnitude.
             [0, r, c, t]     boxes of r outs x c ins x t taps, 0 for the whole axis, numbered row
                              by row and ranked by the sum of their squares.
             [1, n, m]        in every m neighbours along the ins (fewer at the end), for each tap,
                              the n largest magnitudes; `k` is empty.
             [2, taps, s...]  kernels, numbered row by row: in each those taps whose bits are set in
                              the shape of the largest sum of squares, the first of equals; kernels
                              are ranked by that sum. Where a tensor has another number of taps its
                              only shape is the whole kernel.
             Sums of squares are in float64 and in a fixed order, so that every backend finds the
             same bits: each weight is squared, outs are added one after another, ins into 32
             partial sums by their index modulo 32, which are then added in halves (i and i + 16,
             i and i + 8, ...), and taps one after another. NaN has one bit pattern only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .arguments import check, output_size
from .transforms import transformed

NAMESPACE = "sparselth"

CONV = "int[2] stride, int[2] padding, int[2] dilation, int groups"

SCHEMAS: dict[str, str] = {
    "masked_conv2d": (
        f"(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor? plan, {CONV}) -> Tensor"
    ),
    # max(y, 0) of the same, for kernels that have it at no cost.
    "masked_conv2d_relu": (
        f"(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor? plan, {CONV}) -> Tensor"
    ),
    "masked_conv2d_grad_input": (
        "(Tensor grad_output, Tensor weight, Tensor mask, Tensor? plan, int[2] input_hw, "
        f"{CONV}) -> Tensor"
    ),
    "masked_conv2d_grad_weight": (
        f"(Tensor grad_output, Tensor input, Tensor mask, Tensor? plan, {CONV}) -> Tensor"
    ),
    "masked_linear": (
        "(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor? plan) -> Tensor"
    ),
    "masked_linear_grad_input": (
        "(Tensor grad_output, Tensor weight, Tensor mask, Tensor? plan) -> Tensor"
    ),
    "masked_linear_grad_weight": (
        "(Tensor grad_output, Tensor input, Tensor mask, Tensor? plan) -> Tensor"
    ),
    # Magnitudes are ranked by their bits: NaN above infinity, infinity above all else.
    #
    # Masks of the k largest entries or groups; int64 (len(scores),): how many are NaN or Inf.
    "topk_mask": ("(Tensor[] scores, int[] k, bool pooled, int[] pattern) -> (Tensor[], Tensor)"),
    # Z <- Proj(W + U); U <- W + U - Z. Returns float64 (len(weights), 2): per tensor the squared
    # primal residual |W - Z|^2 and the squared change |Z_new - Z_old|^2. Where some W + U is NaN or
    # Inf nothing is written, and the residuals of the tensors that hold them are NaN, unless
    # `ordered`.
    "admm_project_": (
        "(Tensor[] weights, Tensor(a!)[] z, Tensor(b!)[] u, int[] k, bool pooled, int[] pattern, "
        "bool ordered) -> Tensor"
    ),
    # k: len(a) times as many counts as are asked for, those of a[0] first. int64 (len(a), asked):
    # how many of the k largest magnitudes of a[l] and of b[l] coincide; -1 where either holds NaN
    # or Inf. `masks` is empty, or holds one mask per pair: entries outside it do not exist, NaN and
    # Inf there are not seen, and k is at most the number inside.
    "weight_overlap": "(Tensor[] a, Tensor[] b, Tensor[] masks, int[] k) -> Tensor",
    # One SGD step on the surviving entries; pruned weights and momenta are set to zero.
    # `momenta` is empty when momentum == 0; `masks` is empty when everything survives; `z` and `u`
    # are empty unless rho (w - z + u), the gradient of ADMM's penalty, is added to the gradients.
    "masked_sgd_": (
        "(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] momenta, Tensor[] masks, Tensor[] z, "
        "Tensor[] u, float lr, float momentum, float dampening, float weight_decay, bool nesterov, "
        "float rho) -> ()"
    ),
    # One AdamW step likewise; `masks`, `z` and `u` as above, the pull goes through the moments.
    # Which step it is, counted from 1: `step`, or where `steps` is not empty a float32 scalar per
    # weight, on the weight's device and read there.
    "masked_adamw_": (
        "(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
        "Tensor[] masks, Tensor[] z, Tensor[] u, Tensor[] steps, int step, float lr, float beta1, "
        "float beta2, float eps, float weight_decay, float rho) -> ()"
    ),
}


def define(schemas: dict[str, str]) -> None:
    """Register schemas: op name -> arguments and results."""
    for name, schema in schemas.items():
        torch.library.define(f"{NAMESPACE}::{name}", schema)


define(SCHEMAS)

_ops = torch.ops.sparselth


# --- fake kernels ---------------------------------------------------------------------------


def memory_format(like: Tensor) -> torch.memory_format:
    """Return the layout of a convolution's result: channels_last exactly when `like` has it."""
    if transformed(like):
        return torch.contiguous_format  # within vmap there is no asking
    if like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def fake(name: str):
    """Return the decorator that registers an op's fake kernel, which checks arguments first."""

    def register(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            check(name, arguments)
            return kernel(*arguments)

        torch.library.register_fake(f"{NAMESPACE}::{name}", run)
        return kernel

    return register


@fake("masked_conv2d")
@fake("masked_conv2d_relu")
def _(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    height, width = (
        output_size(input.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )
    shape = (input.shape[0], weight.shape[0], height, width)
    return input.new_empty(shape).contiguous(memory_format=memory_format(input))


@fake("masked_conv2d_grad_input")
def _(grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups):
    shape = (grad_output.shape[0], weight.shape[1] * groups, *input_hw)
    return grad_output.new_empty(shape).contiguous(memory_format=memory_format(grad_output))


@fake("masked_conv2d_grad_weight")
def _(grad_output, input, mask, plan, stride, padding, dilation, groups):
    return input.new_empty(mask.shape)


@fake("masked_linear")
def _(input, weight, mask, bias, plan):
    return input.new_empty((input.shape[0], weight.shape[0]))


@fake("masked_linear_grad_input")
def _(grad_output, weight, mask, plan):
    return grad_output.new_empty((grad_output.shape[0], weight.shape[1]))


@fake("masked_linear_grad_weight")
def _(grad_output, input, mask, plan):
    return input.new_empty(mask.shape)


@fake("topk_mask")
def _(scores, k, pooled, pattern):
    masks = [score.new_empty(score.shape, dtype=torch.bool) for score in scores]
    return masks, scores[0].new_empty(len(scores), dtype=torch.int64)


@fake("admm_project_")
def _(weights, z, u, k, pooled, pattern, ordered):
    return weights[0].new_empty((len(weights), 2), dtype=torch.float64)


@fake("weight_overlap")
def _(a, b, masks, k):
    return a[0].new_empty((len(a), len(k) // len(a)), dtype=torch.int64)


@fake("masked_sgd_")
def _(weights, grads, momenta, masks, z, u, lr, *settings):
    return None


@fake("masked_adamw_")
def _(weights, grads, exp_avgs, exp_avg_sqs, masks, z, u, steps, step, *settings):
    return None
