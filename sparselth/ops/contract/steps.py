"""The steps of the optimizers: schemas and fake kernels."""

from __future__ import annotations

from .registry import define, fake

SCHEMAS: dict[str, str] = {
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

define(SCHEMAS)


@fake("masked_sgd_")
def _(weights, grads, momenta, masks, z, u, lr, *settings):
    return None


@fake("masked_adamw_")
def _(weights, grads, exp_avgs, exp_avg_sqs, masks, z, u, steps, step, *settings):
    return None
