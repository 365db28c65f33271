"""Ops: contract, reference oracle, compiled kernels and the public functions over them."""

from . import autograd  # noqa: F401  # registers itself, and the contract and oracles before it
from .backends import use_backend
from .conv import masked_conv2d
from .kernel_choice.decide import use_choice
from .kernel_choice.known import clear_choices
from .linear import masked_linear
from .plan import conv_plan
from .selection import admm_project_, topk_mask, weight_overlap
from .steps import masked_adamw_, masked_sgd_

__all__ = [
    "admm_project_",
    "clear_choices",
    "conv_plan",
    "masked_adamw_",
    "masked_conv2d",
    "masked_linear",
    "masked_sgd_",
    "topk_mask",
    "use_backend",
    "use_choice",
    "weight_overlap",
]
