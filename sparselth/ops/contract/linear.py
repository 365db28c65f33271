"""masked_linear and its gradients: schemas and fake kernels."""

from __future__ import annotations

from .registry import define, fake

SCHEMAS: dict[str, str] = {
    "masked_linear": (
        "(Tensor input, Tensor weight, Tensor mask, Tensor? bias, Tensor? plan) -> Tensor"
    ),
    "masked_linear_grad_input": (
        "(Tensor grad_output, Tensor weight, Tensor mask, Tensor? plan) -> Tensor"
    ),
    "masked_linear_grad_weight": (
        "(Tensor grad_output, Tensor input, Tensor mask, Tensor? plan) -> Tensor"
    ),
}

define(SCHEMAS)


@fake("masked_linear")
def _(input, weight, mask, bias, plan):
    return input.new_empty((input.shape[0], weight.shape[0]))


@fake("masked_linear_grad_input")
def _(grad_output, weight, mask, plan):
    return grad_output.new_empty((grad_output.shape[0], weight.shape[1]))


@fake("masked_linear_grad_weight")
def _(grad_output, input, mask, plan):
    return input.new_empty(mask.shape)
