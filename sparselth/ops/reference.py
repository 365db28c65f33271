"""The oracle: every op in plain PyTorch, on any device and dtype.

Registered as the default kernel, so the package is correct with no compiler, no CUDA and no
Triton. Tests compare every compiled kernel with these functions and benchmarks use the
convolutions among them as the dense-with-mask baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import checked
from .contract import NAMESPACE, SCHEMAS, memory_format
from .reference_selection import largest, masks_of


def masked(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return `weight` where `mask` keeps it, else 0; None keeps everything and copies nothing."""
    if mask is None:
        return weight
    # where, not a product: a NaN under the mask must not leak.
    return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


def zero_off_mask_(weight: Tensor, mask: Tensor) -> None:
    """Set `weight` to zero where `mask` prunes it, in place; NaN too."""
    weight.masked_fill_(~mask, 0)


def masked_conv2d(input, weight, mask, bias, plan, stride, padding, dilation, groups):
    out = F.conv2d(input, masked(weight, mask), bias, stride, padding, dilation, groups)
    return out.contiguous(memory_format=memory_format(input))


def masked_conv2d_relu(*arguments):
    return masked_conv2d(*arguments).relu()


def convolution_backward(grad_output, input, weight, conv, wanted):
    """Return the gradients of a dense convolution: input, weight and bias, those `wanted`."""
    stride, padding, dilation, groups = conv
    return torch.ops.aten.convolution_backward(
        grad_output, input, weight, None, stride, padding, dilation, False, [0, 0], groups, wanted
    )


def masked_conv2d_grad_input(
    grad_output, weight, mask, plan, input_hw, stride, padding, dilation, groups
):
    shape = (grad_output.shape[0], weight.shape[1] * groups, *input_hw)
    conv = (stride, padding, dilation, groups)
    grad, _, _ = convolution_backward(
        grad_output, grad_output.new_empty(shape), masked(weight, mask), conv, [True, False, False]
    )
    return grad.contiguous(memory_format=memory_format(grad_output))


def masked_conv2d_grad_weight(grad_output, input, mask, plan, stride, padding, dilation, groups):
    conv = (stride, padding, dilation, groups)
    weight = input.new_empty(mask.shape)  # only its shape is read
    _, grad, _ = convolution_backward(grad_output, input, weight, conv, [False, True, False])
    return masked(grad.contiguous(), mask)


def masked_linear(input, weight, mask, bias, plan):
    return F.linear(input, masked(weight, mask), bias)


def masked_linear_grad_input(grad_output, weight, mask, plan):
    return grad_output @ masked(weight, mask)


def masked_linear_grad_weight(grad_output, input, mask, plan):
    return masked(grad_output.t() @ input, mask)


def _nonfinite(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([(~t.isfinite()).sum() for t in tensors])


def topk_mask(scores, k, pooled, pattern):
    return masks_of(scores, k, pooled, pattern), _nonfinite(scores)


def admm_project_(weights, z, u, k, pooled, pattern, ordered):
    sums = [w + dual for w, dual in zip(weights, u, strict=True)]
    nonfinite = _nonfinite(sums)
    if not ordered and nonfinite.any():
        none = torch.zeros(len(sums), 2, dtype=torch.float64, device=sums[0].device)
        return none.masked_fill_(nonfinite.bool().view(-1, 1), float("nan"))
    masks = masks_of(sums, k, pooled, pattern)
    residuals = []
    for weight, z_l, u_l, v, mask in zip(weights, z, u, sums, masks, strict=True):
        projected = masked(v, mask)
        primal = (weight.double() - projected.double()).square().sum()
        change = (projected.double() - z_l.double()).square().sum()
        residuals.append(torch.stack((primal, change)))
        z_l.copy_(projected)
        u_l.copy_(masked(v, ~mask))
    return torch.stack(residuals)


def weight_overlap(a, b, masks, k):
    asked = len(k) // len(a)
    found = []
    for i, n in enumerate(k):
        layer = i // asked
        inside = masks[layer] if masks else None
        of_a, of_b = (largest(x[layer], n, inside) for x in (a, b))
        found.append((of_a & of_b).sum())
    given = masks or [None] * len(a)
    bad_a, bad_b = (
        _nonfinite([masked(*pair) for pair in zip(x, given, strict=True)]) for x in (a, b)
    )
    counts = torch.stack(found).view(len(a), asked)
    return counts.masked_fill_((bad_a + bad_b).bool().view(-1, 1), -1)


def masked_sgd_(
    weights, grads, momenta, masks, z, u, lr, momentum, dampening, weight_decay, nesterov, rho
):
    for i, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
        mask = masks[i] if masks else None
        step = grad + weight_decay * weight
        if z:
            step = step + rho * (weight - z[i] + u[i])
        step = masked(step, mask)
        if momentum != 0:
            buffer = momenta[i]
            buffer.copy_(masked(momentum * buffer + (1 - dampening) * step, mask))
            step = step + momentum * buffer if nesterov else buffer
        weight.copy_(masked(weight - lr * step, mask))


def masked_adamw_(
    weights, grads, exp_avgs, exp_avg_sqs, masks, z, u, steps, step, lr, beta1, beta2, eps,
    weight_decay, rho,
):  # fmt: skip
    for i, stored in enumerate(zip(weights, grads, exp_avgs, exp_avg_sqs, strict=True)):
        mask = masks[i] if masks else None
        # In 16 bits eps would be 0, and so would most squares before they are used.
        wide = torch.promote_types(weights[i].dtype, torch.float32)
        weight, grad, mean, square = (tensor.to(wide) for tensor in stored)
        if z:
            grad = grad + rho * (weight - z[i].to(wide) + u[i].to(wide))
        mean = beta1 * mean + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * grad.square()
        count = steps[i].double() if steps else torch.tensor(step, dtype=torch.float64)
        step_size = (lr / (1 - beta1**count)).to(wide)
        root = (1 - beta2**count).sqrt().to(wide)
        moved = (1 - lr * weight_decay) * weight - step_size * mean / (square.sqrt() / root + eps)
        for tensor, result in zip(
            (weights[i], exp_avgs[i], exp_avg_sqs[i]), (moved, mean, square), strict=True
        ):
            tensor.copy_(masked(result, mask))


for _name in SCHEMAS:
    torch.library.register_kernel(f"{NAMESPACE}::{_name}", None, checked(_name, globals()[_name]))
