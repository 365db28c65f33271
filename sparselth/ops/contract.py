"""The contract of every op: schema, fake kernel and autograd formula.

Everything a backend has to agree on stands here, in Python (and, for the ops that only see
blocked activations, in `contract_blocked.py`). `reference.py` registers the plain
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
from torch._library.autograd import Info, make_autograd_impl

from .arguments import check, output_size
from .binding import dense_passes_of
from .forcing import forced, forcing
from .masking import mark_on_mask
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


# --- autograd -------------------------------------------------------------------------------
#
# y = conv(x, w) is linear in x and in w, so its three ops are closed under differentiation:
# the derivatives of grad_input and grad_weight are again masked_conv2d, grad_input and
# grad_weight. Double backward (Hessian-vector products) follows without another kernel.


_autograd = torch.library.Library(NAMESPACE, "IMPL")


def _register_autograd(name: str, setup, backward) -> None:
    """Differentiate an op by its formula; by the oracle's own derivatives under transforms.

    As `torch.library.register_autograd`, whose kernels would take the result for a constant in
    forward mode: without an input that requires a gradient they do not look for derivatives.
    """

    def keep(ctx, inputs, output):
        ctx.forced = forced()
        setup(ctx, inputs, output)

    def run(ctx, *grads):
        # On a GPU a backward runs in a thread of autograd's own, which has a context of its own.
        with forcing(ctx.forced):
            return backward(ctx, *grads)

    op = getattr(_ops, name).default
    by_formula = make_autograd_impl(op, Info(run, keep))

    def kernel(keyset, *args):
        if transformed():
            from . import reference  # which is built on this module

            return getattr(reference, name)(*args)
        return by_formula(keyset, *args)

    _autograd.impl(name, kernel, "Autograd", with_keyset=True)


def _serving(name: str, grad: Tensor, dense: bool = False) -> Callable[..., Tensor]:
    """Return the sparse op `name`, or the dense computation of the same.

    Dense also where `grad` is being transformed, for a batch of gradients say.
    """
    if not dense and not transformed(grad):
        return getattr(_ops, name)
    from . import reference  # which is built on this module

    return getattr(reference, name)


def in_layout_of(input: Tensor, grad: Tensor) -> Tensor:
    """Return `grad` in blocks where the forward's input was: once, for both passes."""
    if type(input) is Tensor or type(input) is torch.nn.Parameter:
        return grad
    from .blocked import BlockedTensor, blocked  # which are built on this module

    travels = isinstance(input, BlockedTensor) and input.is_blocked()
    return blocked(grad) if travels and type(grad) is Tensor else grad


def conv_setup(ctx, inputs, output):
    """Keep what `conv_backward` needs, and which of its passes are dense for this input."""
    input, weight, mask, bias, plan, *ctx.conv = inputs
    ctx.has_bias = bias is not None
    ctx.dense_passes = dense_passes_of(plan)
    ctx.save_for_backward(input, weight, mask, plan)


def conv_backward(ctx, grad):
    """Differentiate `masked_conv2d` with respect to input, weight and bias."""
    input, weight, mask, plan, *_ = ctx.saved_tensors
    need_input, need_weight, _, need_bias, *_ = ctx.needs_input_grad
    grad_input = grad_weight = grad_bias = None
    if need_input and need_weight and not ctx.dense_passes and not transformed(grad):
        grad = in_layout_of(input, grad)
    if need_input:
        input_hw = input.shape[2:]
        run = _serving("masked_conv2d_grad_input", grad, "grad_input" in ctx.dense_passes)
        grad_input = run(grad, weight, mask, plan, input_hw, *ctx.conv)
    if need_weight:
        run = _serving("masked_conv2d_grad_weight", grad, "grad_weight" in ctx.dense_passes)
        grad_weight = mark_on_mask(run(grad, input, mask, plan, *ctx.conv), mask)
    if ctx.has_bias and need_bias:
        grad_bias = grad.sum((0, 2, 3))
    return grad_input, grad_weight, None, grad_bias, None, None, None, None, None


def _conv_relu_setup(ctx, inputs, output):
    conv_setup(ctx, inputs, output)
    input, weight, mask, _, plan, *_ = inputs
    ctx.save_for_backward(input, weight, mask, plan, output)


def _conv_relu_backward(ctx, grad):
    *_, output = ctx.saved_tensors
    return conv_backward(ctx, torch.ops.aten.threshold_backward(grad, output, 0))


def _conv_grad_input_setup(ctx, inputs, output):
    grad_output, weight, mask, plan, _, *ctx.conv = inputs
    ctx.save_for_backward(grad_output, weight, mask, plan)


def _conv_grad_input_backward(ctx, grad):
    grad_output, weight, mask, plan = ctx.saved_tensors
    need_output, need_weight, *_ = ctx.needs_input_grad
    d_output = d_weight = None
    if need_output:
        d_output = _serving("masked_conv2d", grad)(grad, weight, mask, None, plan, *ctx.conv)
    if need_weight:
        d_weight = _serving("masked_conv2d_grad_weight", grad)(
            grad_output, grad, mask, plan, *ctx.conv
        )
    return d_output, d_weight, None, None, None, None, None, None, None


def _conv_grad_weight_setup(ctx, inputs, output):
    grad_output, input, mask, plan, *ctx.conv = inputs
    ctx.save_for_backward(grad_output, input, mask, plan)


def _conv_grad_weight_backward(ctx, grad):
    grad_output, input, mask, plan = ctx.saved_tensors
    need_output, need_input, *_ = ctx.needs_input_grad
    d_output = d_input = None
    if need_output:
        d_output = _serving("masked_conv2d", grad)(input, grad, mask, None, plan, *ctx.conv)
    if need_input:
        input_hw = input.shape[2:]
        d_input = _serving("masked_conv2d_grad_input", grad)(
            grad_output, grad, mask, plan, input_hw, *ctx.conv
        )
    return d_output, d_input, None, None, None, None, None, None


_register_autograd("masked_conv2d", conv_setup, conv_backward)
_register_autograd("masked_conv2d_relu", _conv_relu_setup, _conv_relu_backward)
_register_autograd("masked_conv2d_grad_input", _conv_grad_input_setup, _conv_grad_input_backward)
_register_autograd("masked_conv2d_grad_weight", _conv_grad_weight_setup, _conv_grad_weight_backward)


def linear_setup(ctx, inputs, output):
    """Keep what `linear_backward` needs, and which of its passes are dense for this input."""
    input, weight, mask, bias, plan = inputs
    ctx.has_bias = bias is not None
    ctx.dense_passes = dense_passes_of(plan)
    ctx.save_for_backward(input, weight, mask, plan)


def linear_backward(ctx, grad):
    """Differentiate `masked_linear` with respect to input, weight and bias."""
    input, weight, mask, plan = ctx.saved_tensors
    need_input, need_weight, _, need_bias, _ = ctx.needs_input_grad
    grad_input = grad_weight = grad_bias = None
    if need_input:
        run = _serving("masked_linear_grad_input", grad, "grad_input" in ctx.dense_passes)
        grad_input = run(grad, weight, mask, plan)
    if need_weight:
        run = _serving("masked_linear_grad_weight", grad, "grad_weight" in ctx.dense_passes)
        grad_weight = mark_on_mask(run(grad, input, mask, plan), mask)
    if ctx.has_bias and need_bias:
        grad_bias = grad.sum(0)
    return grad_input, grad_weight, None, grad_bias, None


def _linear_pair_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _linear_grad_input_backward(ctx, grad):
    grad_output, weight, mask, plan = ctx.saved_tensors
    need_output, need_weight, *_ = ctx.needs_input_grad
    d_output = d_weight = None
    if need_output:
        d_output = _serving("masked_linear", grad)(grad, weight, mask, None, plan)
    if need_weight:
        d_weight = _serving("masked_linear_grad_weight", grad)(grad_output, grad, mask, plan)
    return d_output, d_weight, None, None


def _linear_grad_weight_backward(ctx, grad):
    grad_output, input, mask, plan = ctx.saved_tensors
    need_output, need_input, *_ = ctx.needs_input_grad
    d_output = d_input = None
    if need_output:
        d_output = _serving("masked_linear", grad)(input, grad, mask, None, plan)
    if need_input:
        d_input = _serving("masked_linear_grad_input", grad)(grad_output, grad, mask, plan)
    return d_output, d_input, None, None


_register_autograd("masked_linear", linear_setup, linear_backward)
_register_autograd("masked_linear_grad_input", _linear_pair_setup, _linear_grad_input_backward)
_register_autograd("masked_linear_grad_weight", _linear_pair_setup, _linear_grad_weight_backward)
