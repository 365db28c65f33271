"""Ops: contract, reference oracle, compiled kernels and the public functions over them."""

from . import autograd, libraries, reference  # noqa: F401  # register themselves

libraries.load()  # before `backends` looks at what is there

from .backends import use_backend  # noqa: E402
from .choice import clear_choices, use_choice  # noqa: E402
from .functional import masked_conv2d, masked_linear  # noqa: E402
from .selection import admm_project_, topk_mask, weight_overlap  # noqa: E402
from .steps import masked_adamw_, masked_sgd_  # noqa: E402

__all__ = [
    "admm_project_",
    "clear_choices",
    "masked_adamw_",
    "masked_conv2d",
    "masked_linear",
    "masked_sgd_",
    "topk_mask",
    "use_backend",
    "use_choice",
    "weight_overlap",
]
