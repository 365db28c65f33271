"""What every part of the contract is written with: the namespace, `define` and `fake`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..transforms import transformed
from .arguments import check

NAMESPACE = "sparselth"

# A convolution's settings, as schemas spell them.
CONV = "int[2] stride, int[2] padding, int[2] dilation, int groups"


def define(schemas: dict[str, str]) -> None:
    """Register schemas: op name -> arguments and results."""
    for name, schema in schemas.items():
        torch.library.define(f"{NAMESPACE}::{name}", schema)


def memory_format(like: Tensor) -> torch.memory_format:
    """Return the layout of a convolution's result: channels_last exactly when `like` has it."""
    if transformed(like):
        return torch.contiguous_format  # within vmap there is no asking
    if like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def fake(name: str):
    """Return the decorator that registers an op's fake kernel, which checks arguments first."""

    def register(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            check(name, arguments)
            return kernel(*arguments)

        torch.library.register_fake(f"{NAMESPACE}::{name}", run)
        return kernel

    return register
