"""The public steps of optimizers: arguments checked once, in words, then the op.

`use_backend` is honored here, as in `conv.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_number
from ..errors import SparselthError
from .backends import implementation
from .checks import check_list, check_lists, check_mask, check_same_length, tensor_list


@torch.no_grad()
def masked_sgd_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    masks: Sequence[Tensor],
    z: Sequence[Tensor] = (),
    u: Sequence[Tensor] = (),
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    rho: float = 0.0,
) -> None:
    """Take one SGD step on the surviving weights, in place.

    g = grad + weight_decay * w + rho * (w - z + u);  v <- momentum * v + (1 - dampening) * g;
    w <- w - lr * (g + momentum * v if nesterov else v).
    Where the mask is False, the weight and its momentum become exactly zero.

    weights, grads: lists of tensors of any equal shapes, of one dtype (float16, bfloat16, float32
    or float64) and device. weights are overwritten; empty lists do nothing.
    momenta: v, likewise, overwritten; not looked at when momentum is 0.
    masks: bool, of the weights' shapes, True keeps; empty when every weight survives.
    z, u: the target and the scaled dual of ADMM, likewise; not looked at when rho is 0.
    lr, momentum, dampening, weight_decay, nesterov: as of `torch.optim.SGD`, whose first step is
    v <- g, whatever the dampening: pass 0 for it.
    rho: strength of ADMM's penalty rho/2 |w - z + u|^2.

    Raises SparselthError on mismatched lists, shapes, dtypes or devices, and on NaN or Inf among
    the numbers.

    Reference: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", in the form of `torch.optim.SGD`.
    """
    settings = tuple(
        check_number(name, value)
        for name, value in (
            ("lr", lr),
            ("momentum", momentum),
            ("dampening", dampening),
            ("weight_decay", weight_decay),
        )
    )
    rho = check_number("rho", rho)
    lists = {"weights": tensor_list("weights", weights), "grads": tensor_list("grads", grads)}
    if momentum != 0:
        lists["momenta"] = tensor_list("momenta", momenta)
    also = _check_step(lists, masks, z, u, rho)
    if not lists["weights"]:
        return
    run = implementation("masked_sgd_", lists["weights"][0].device)
    momenta = lists.get("momenta", [])
    run(lists["weights"], lists["grads"], momenta, *also, *settings, bool(nesterov), rho)


@torch.no_grad()
def masked_adamw_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    masks: Sequence[Tensor],
    z: Sequence[Tensor] = (),
    u: Sequence[Tensor] = (),
    *,
    step: int | Sequence[Tensor],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    rho: float = 0.0,
) -> None:
    """Take one AdamW step on the surviving weights, in place.

    g = grad + rho * (w - z + u);
    m <- beta1 * m + (1 - beta1) * g;  v <- beta2 * v + (1 - beta2) * g^2;
    w <- (1 - lr * weight_decay) * w
         - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps).
    Where the mask is False, the weight and both its moments become exactly zero. ADMM's pull is
    part of the loss's gradient and goes through the moments; the weight decay does not.

    weights, grads, exp_avgs (m), exp_avg_sqs (v): lists of tensors of any equal shapes, of one
    dtype (float16, bfloat16, float32 or float64) and device; 16-bit ones are computed in float32
    and rounded once. All but grads are overwritten; empty lists do nothing.
    masks: bool, of the weights' shapes, True keeps; empty when every weight survives.
    z, u: the target and the scaled dual of ADMM, likewise; not looked at when rho is 0.
    step: which step this is, counted from 1; or a float32 scalar for each weight, on its device,
    which on a GPU nobody waits for.
    lr, betas (beta1, beta2), eps, weight_decay: as of `torch.optim.AdamW`.
    rho: strength of ADMM's penalty rho/2 |w - z + u|^2.

    Raises SparselthError on mismatched lists, shapes, dtypes or devices, and where step or betas
    would divide by zero.

    Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
    algorithm 2; its schedule multiplier is part of lr here, as in torch.optim.AdamW.
    """
    lists = {"weights": tensor_list("weights", weights), "grads": tensor_list("grads", grads)}
    rho = check_number("rho", rho)
    lists |= {
        "exp_avgs": tensor_list("exp_avgs", exp_avgs),
        "exp_avg_sqs": tensor_list("exp_avg_sqs", exp_avg_sqs),
    }
    also = _check_step(lists, masks, z, u, rho)
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise SparselthError(f"betas must be two numbers in [0, 1), got {betas!r}")
    betas = (
        check_number("betas[0]", betas[0], 0, below=1),
        check_number("betas[1]", betas[1], 0, below=1),
    )
    lr, eps = check_number("lr", lr), check_number("eps", eps)
    weight_decay = check_number("weight_decay", weight_decay)
    if isinstance(step, int):
        counts: tuple[list[Tensor], int] = ([], step)
        if step < 1:
            raise SparselthError(f"step counts from 1, got {step}")
    else:
        counts = (tensor_list("step", step), 0)
        check_same_length(weights=lists["weights"], step=counts[0])
        for weight, count in zip(lists["weights"], counts[0], strict=True):
            if (count.shape, count.dtype, count.device) != ((), torch.float32, weight.device):
                raise SparselthError(
                    f"step must be float32 scalars on {weight.device}, the weights' device, got "
                    f"{count.dtype} of shape {tuple(count.shape)} on {count.device}"
                )
    if not lists["weights"]:
        return
    run = implementation("masked_adamw_", lists["weights"][0].device)
    run(*lists.values(), *also, *counts, lr, *betas, eps, weight_decay, rho)


def _check_step(
    lists: dict[str, list[Tensor]],
    masks: Sequence[Tensor],
    z: Sequence[Tensor],
    u: Sequence[Tensor],
    rho: float,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Check what an optimizer's step is given; return masks, z and u as the ops take them."""
    masks = tensor_list("masks", masks)
    z, u = (tensor_list("z", z), tensor_list("u", u)) if rho != 0 else ([], [])
    check_lists(**lists, **({"z": z, "u": u} if rho != 0 else {}))
    weights = lists["weights"]
    check_list(weights)
    if masks:
        check_same_length(weights=weights, masks=masks)
        for weight, mask in zip(weights, masks, strict=True):
            check_mask(mask, weight)
    return masks, z, u
