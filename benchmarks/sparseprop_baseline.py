"""SparseProp's convolution as a baseline: one training step of one layer through its autograd.

Reference: Nikdan et al. 2023, "SparseProp: Efficient Sparse Backpropagation for Faster Training of
Neural Networks", arXiv:2302.04852; package `sparseprop`. It computes on CPUs with AVX2, in fp32,
and takes its threads from OpenMP: loaded after torch, it shares torch's pool where both ask for
the same libgomp.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparselth.bench.layers import ConvProblem

Step = Callable[[], tuple[Tensor, ...]]

# Relative to the norm: it is compiled with -ffast-math and sums up to 10^5 products in fp32.
TOLERANCE = 1e-4


def candidates(problem: ConvProblem) -> tuple[dict[str, Step], str]:
    """Return both of SparseProp's kernels as steps, forward and backward, checked against dense.

    Where it cannot serve the problem: no steps, and the reason.
    """
    reason = unsupported(problem)
    if reason:
        return {}, reason
    try:
        from sparseprop.modules import SparseConv2d
    except ImportError as error:
        return {}, f"cannot be imported: {error}"
    steps = {
        "SparseProp over batch": step(SparseConv2d, problem, over_width=False),
        "SparseProp over width": step(SparseConv2d, problem, over_width=True),
    }
    wrong = [name for name, call in steps.items() if not agrees(call(), dense(problem))]
    return ({}, f"wrong results: {', '.join(wrong)}") if wrong else (steps, "")


def unsupported(problem: ConvProblem) -> str:
    """Say why SparseProp cannot compute this convolution, or nothing if it can."""
    if problem.groups != 1:
        return "has no groups"
    if problem.stride not in (1, 2):
        return "has strides 1 and 2 only"
    if problem.weight.shape[2] != problem.weight.shape[3]:
        return "has square kernels only"
    # Each thread reduces its weight gradient into an array on its stack, and overruns it silently.
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if stack != resource.RLIM_INFINITY and 4 * int(problem.mask.sum()) > 0.9 * stack:
        return "its weight gradient does not fit the stack (ulimit -s)"
    return ""


def step(conv_type: Any, problem: ConvProblem, over_width: bool) -> Step:
    """Build the step: returns the gradients of input and kept weights.

    The kernel over the batch wants images innermost. Its tensors have those strides beforehand, so
    that, as for our own layout, no conversion is counted.
    """
    weight = torch.where(problem.mask, problem.weight, 0.0)
    conv = conv_type(
        weight, padding=problem.padding, stride=problem.stride, vectorizing_over_on=over_width
    )
    layout = torch.Tensor.contiguous if over_width else images_innermost
    x, grad = layout(problem.x).detach().requires_grad_(), layout(problem.grad)
    return lambda: torch.autograd.grad(conv(x), (x, conv.W_val), grad)


def images_innermost(images: Tensor) -> Tensor:
    """Return (N, C, H, W) with strides (1, H·W·N, W·N, N)."""
    return images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def dense(problem: ConvProblem) -> tuple[Tensor, ...]:
    """Return the same gradients by torch."""
    x = problem.x.detach().requires_grad_()
    weight = torch.where(problem.mask, problem.weight, 0.0).requires_grad_()
    y = F.conv2d(x, weight, stride=problem.stride, padding=problem.padding)
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), problem.grad)
    return grad_x, grad_weight[problem.mask]


def agrees(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    """Say whether the gradients are the same but for rounding."""
    return all(
        f.shape == e.shape and float((f - e).norm()) <= TOLERANCE * float(e.norm())
        for f, e in zip(found, expected, strict=True)
    )
