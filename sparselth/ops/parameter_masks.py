"""Which mask belongs to which parameter.

A mask lives in the module that uses it; an optimizer sees parameters only. A weak table joins
them, whose entries vanish with the module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


class BoundMask(Protocol):
    """A parameter and its mask, see `nn.state.MaskState` and `nn.sharded.Shard`."""

    @property
    def parameter(self) -> Tensor:
        """The parameter, as optimizers see it."""

    @property
    def mask(self) -> Tensor:
        """The mask: bool, of its shape, on its device, and placed like it."""

    def stored_mask(self) -> Tensor:
        """Return the mask, stored in memory as the parameter is."""

    def take_slots(self) -> None:
        """Take a mask that was put into a module's slot past the module."""

    def clean_(self) -> None:
        """Set the parameter to zero where its mask prunes it."""

    def mark_clean(self) -> None:
        """Record that the parameter is zero there as it stands."""


# By id, as a weak reference to a parameter would keep torch.utils.swap_tensors from working. What
# is bound holds its parameter, so an id is not used again while its entry is there.
_bound: WeakValueDictionary[int, Any] = WeakValueDictionary()


def bind(parameter: Tensor, bound: BoundMask) -> None:
    """Record what holds the mask of `parameter`. It stays bound as long as `bound` lives."""
    _bound[id(parameter)] = bound


def unbind(parameter: Tensor) -> None:
    """Forget the mask of `parameter`."""
    _bound.pop(id(parameter), None)


def bound_to(parameter: Tensor) -> Any:
    """Return what holds the mask of `parameter`, or None."""
    bound = _bound.get(id(parameter))
    return bound if bound is not None and bound.parameter is parameter else None


def is_sharded(tensor: Tensor | None) -> bool:
    """Say whether a tensor is a DTensor, as FSDP2 puts in a parameter's place."""
    module = sys.modules.get("torch.distributed.tensor")  # imported by whoever shards
    return module is not None and isinstance(tensor, module.DTensor)


def bound_of(optimizer: torch.optim.Optimizer) -> Iterator[Any]:
    """Yield what holds the masks of an optimizer's parameters."""
    if _bound:
        for group in optimizer.param_groups:
            yield from bound_among(group["params"])


def bound_among(parameters: Iterable[Tensor]) -> Iterator[Any]:
    """Yield what holds the masks of those parameters that have one."""
    for parameter in parameters:
        bound = bound_to(parameter)
        if bound is not None:
            yield bound


def clean_among_(tensors: Iterable[Tensor]) -> None:
    """Set those tensors that are parameters with a mask to zero where it prunes them."""
    for bound in bound_among(tensors):
        bound.clean_()


def _before_any_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    # A mask that was put into a slot and does not fit is refused before anything is written.
    if not torch.compiler.is_compiling():
        for bound in bound_of(optimizer):
            bound.take_slots()


def _after_any_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    # Whatever stepped, momentum from before the mask included, pruned weights are zero after it.
    # A compiled step cannot look at tables: the next forward notices what it wrote.
    if not torch.compiler.is_compiling() and not getattr(optimizer, "keeps_masks", False):
        for bound in bound_of(optimizer):
            bound.clean_()


# The one place where every optimizer of torch passes, also those that write through `.data`, which
# no version counter sees. Without masks it costs a look at an empty table.
register_optimizer_step_pre_hook(_before_any_step)
register_optimizer_step_post_hook(_after_any_step)
