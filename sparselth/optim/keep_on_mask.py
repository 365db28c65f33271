"""Any optimizer of torch, kept on the masks."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from ..checks import kind
from ..errors import SparselthError
from ..ops.parameter_masks import bound_of
from .base import MaskedOptimizer, cut_gradient, cut_state

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)


def keep_on_mask(optimizer: _Optimizer) -> _Optimizer:
    """Keep pruned weights, and the optimizer's state for them, exactly zero; return `optimizer`.

    optimizer: any of `torch.optim` or like them, over the parameters of a model that `sparsify`
    made sparse, before or after this call; masks may change later. Gradients off the mask are set
    to zero before each step, and whatever the step left there after it, in weights and in state
    tensors of the weight's shape: momentum, second moments. Its state dict, its schedulers and
    parameters without a mask stay as they are. `sparselth.optim.SGD` and `sparselth.optim.AdamW` do
    the same in one pass.

    The two hooks stay behind when an optimizer is copied: wrap the copy as well.

    Raises SparselthError for one of `sparselth.optim`, one that keeps to them already, or what
    is no optimizer.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SparselthError(
            f"optimizer must be one of torch.optim or derived from it, got {kind(optimizer)}"
        )
    if isinstance(optimizer, MaskedOptimizer):
        name = type(optimizer).__name__
        raise SparselthError(
            f"sparselth.optim.{name} keeps to the masks by itself; use it as it is"
        )
    if _before in optimizer._optimizer_step_pre_hooks.values():
        raise SparselthError("this optimizer keeps to the masks already")
    optimizer.register_step_pre_hook(_before)
    optimizer.register_step_post_hook(_after)
    return optimizer


@torch.no_grad()
def _before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for bound in bound_of(optimizer):
        cut_gradient(bound)


@torch.no_grad()
def _after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    # The weights themselves are cleaned after every step of any optimizer: `parameter_masks`.
    for bound in bound_of(optimizer):
        cut_state(optimizer, bound)
