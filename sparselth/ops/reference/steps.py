"""The oracle of the optimizers' steps: SGD and AdamW on the weights that a mask keeps."""

from __future__ import annotations

import torch

from .mask import apply_mask


def masked_sgd_(
    weights, grads, momenta, masks, z, u, lr, momentum, dampening, weight_decay, nesterov, rho
):
    """Do g = grad + wd w + rho (w - z + u);  v <- momentum v + (1 - dampening) g;  w <- w - lr v.

    With nesterov w <- w - lr (g + momentum v).
    """
    for i, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
        mask = masks[i] if masks else None
        step = grad + weight_decay * weight
        if z:
            step = step + rho * (weight - z[i] + u[i])
        step = apply_mask(step, mask)
        if momentum != 0:
            buffer = momenta[i]
            buffer.copy_(apply_mask(momentum * buffer + (1 - dampening) * step, mask))
            step = step + momentum * buffer if nesterov else buffer
        weight.copy_(apply_mask(weight - lr * step, mask))


def masked_adamw_(
    weights, grads, exp_avgs, exp_avg_sqs, masks, z, u, steps, step, lr, beta1, beta2, eps,
    weight_decay, rho,
):  # fmt: skip
    """Do m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2, for g = grad + rho (w - z + u), and

    w <- (1 - lr wd) w - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps).
    """
    for i, stored in enumerate(zip(weights, grads, exp_avgs, exp_avg_sqs, strict=True)):
        mask = masks[i] if masks else None
        # In 16 bits eps would be 0, and so would most squares before they are used.
        wide = torch.promote_types(weights[i].dtype, torch.float32)
        weight, grad, mean, square = (tensor.to(wide) for tensor in stored)
        if z:
            grad = grad + rho * (weight - z[i].to(wide) + u[i].to(wide))
        mean = beta1 * mean + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * grad.square()
        count = (
            steps[i].double() if steps else torch.tensor(step, dtype=torch.float64, device="cpu")
        )
        step_size = (lr / (1 - beta1**count)).to(wide)
        root = (1 - beta2**count).sqrt().to(wide)
        moved = (1 - lr * weight_decay) * weight - step_size * mean / (square.sqrt() / root + eps)
        for tensor, result in zip(
            (weights[i], exp_avgs[i], exp_avg_sqs[i]), (moved, mean, square), strict=True
        ):
            tensor.copy_(apply_mask(result, mask))
