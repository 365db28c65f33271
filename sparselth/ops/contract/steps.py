"""The steps of the optimizers: schemas and fake kernels."""

from __future__ import annotations

from .registry import define, fake

SCHEMAS: dict[str, str] = {
    "masked_sgd_": (
        "(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] momenta, Tensor[] masks, Tensor[] z, "
        "Tensor[] u, float lr, float momentum, float dampening, float weight_decay, bool nesterov, "
        "float rho) -> ()"
    ),
    "masked_adamw_": (
        "(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
        "Tensor[] masks, Tensor[] z, Tensor[] u, Tensor[] steps, int step, float lr, float beta1, "
        "float beta2, float eps, float weight_decay, float rho) -> ()"
    ),
}

define(SCHEMAS)


@fake("masked_sgd_")
def _(weights, grads, momenta, masks, z, u, lr, *settings):
    """Take one SGD step on the weights that the masks keep, in place.

    g = grad + weight_decay w + rho (w - z + u)
    v <- momentum v + (1 - dampening) g
    w <- w - lr (g + momentum v   if nesterov else   v)
    Where a mask is False, w and v become exactly zero. Without momentum v is g.

    weights, grads: lists of tensors of any equal shapes, of one dtype (float16, bfloat16, float32
    or float64) and device. weights are overwritten; empty lists do nothing.
    momenta: v, likewise, overwritten; empty when momentum is 0.
    masks: bool, of the weights' shapes; empty where every weight stays.
    z, u: the target and the scaled dual of ADMM, likewise; both empty leaves its pull out.
    lr, momentum, dampening, weight_decay, nesterov: as of `torch.optim.SGD`.
    rho: strength of ADMM's penalty rho/2 |w - z + u|^2, whose gradient is added.
    Returns nothing.

    Reference: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", in the form of `torch.optim.SGD`.
    """
    return None


@fake("masked_adamw_")
def _(weights, grads, exp_avgs, exp_avg_sqs, masks, z, u, steps, step, *settings):
    """Take one AdamW step on the weights that the masks keep, in place.

    g = grad + rho (w - z + u)
    m <- beta1 m + (1 - beta1) g;   v <- beta2 v + (1 - beta2) g^2
    w <- (1 - lr weight_decay) w - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
    Where a mask is False, w, m and v become exactly zero. ADMM's pull goes through the moments;
    the weight decay does not.

    weights, grads: lists of tensors of any equal shapes, of one dtype (float16, bfloat16, float32
    or float64) and device. weights are overwritten; empty lists do nothing.
    exp_avgs, exp_avg_sqs: m and v, likewise, overwritten. 16-bit types are computed in float32 and
    rounded once.
    masks: bool, of the weights' shapes; empty where every weight stays.
    z, u: the target and the scaled dual of ADMM, likewise; both empty leaves its pull out.
    steps: t of each weight, a list of float32 scalars on the weights' device, which nobody waits
    for; or empty, and `step` is t of all, counted from 1.
    lr, beta1, beta2, eps, weight_decay: as of `torch.optim.AdamW`.
    rho: strength of ADMM's penalty rho/2 |w - z + u|^2, whose gradient is added.
    Returns nothing.

    Reference: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """
    return None
