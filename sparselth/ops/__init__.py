"""Ops: contract, reference oracle, compiled kernels and the public functions over them."""

from . import contract, loader, reference  # noqa: F401  (schemas before kernels)
from .backends import backends, use_backend
from .functional import (
    admm_project_,
    masked_conv2d,
    masked_linear,
    masked_sgd_,
    topk_mask,
    weight_overlap,
)

loader.load()

__all__ = [
    "admm_project_",
    "backends",
    "masked_conv2d",
    "masked_linear",
    "masked_sgd_",
    "topk_mask",
    "use_backend",
    "weight_overlap",
]
