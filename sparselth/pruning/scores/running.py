"""How scores run a model: eagerly, and without what is pruned already."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...checks import called


class WithValues(nn.Module):
    """A model that computes with other values for some of its parameters and buffers.

    values: returns name -> tensor, differentiated through where they require it; called in every
    forward, so that each has a graph of its own.
    """

    def __init__(self, model: nn.Module, values: Callable[[], dict[str, Tensor]]) -> None:
        super().__init__()
        self._run = lambda *args: functional_call(model, values(), args)

    def forward(self, *args: Any) -> Any:
        return self._run(*args)


def without_pruned(model: nn.Module, left: Mapping[str, Tensor]) -> nn.Module:
    """Return what computes as a model does without what masks prune; its parameters are the same.

    left: parameter name -> bool mask.
    """
    if not left:
        return model
    kept = {name: model.get_parameter(name) for name in left}
    return WithValues(model, lambda: {n: torch.where(m, kept[n], 0.0) for n, m in left.items()})


def run(model: nn.Module, x: Any, number: int) -> Any:
    """Return what a model gives for the x of a batch; eagerly, be it compiled."""
    with eagerly():
        return called(model, [x], f"the x of batch {number}")


def eagerly() -> AbstractContextManager[Any]:
    """Let what is compiled run as it is written.

    Hooks and function modes see nothing of a compiled forward, and it cannot be differentiated
    twice.
    """
    # Whatever compiles has imported it, which takes seconds.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
