"""What every part of the contract is written with: the namespace, `define` and `fake`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import unknown_name
from ..transforms import transformed
from .arguments import check

NAMESPACE = "sparselth"

# A convolution's settings, as schemas spell them, and as they are handed on: stride, padding and
# dilation, [height, width] each, and groups.
ConvSettings = tuple[Sequence[int], Sequence[int], Sequence[int], int]
CONV = "int[2] stride, int[2] padding, int[2] dilation, int groups"


# Op -> what its fake kernel says of it.
_DESCRIPTIONS: dict[str, str] = {}

# What holds for every op, and is said once.
_RAISES = (
    "Raises SparselthError, in a compiled kernel RuntimeError, where shapes, dtypes, devices or\n"
    "numbers do not fit each other, before anything is read or written."
)


def define(schemas: dict[str, str]) -> None:
    """Register schemas: op name -> arguments and results."""
    for name, schema in schemas.items():
        torch.library.define(f"{NAMESPACE}::{name}", schema)


def describe(op: str) -> str:
    """Return an op's schema and what it computes, takes, returns and raises, as plain text.

    op: a name of `ALL_SCHEMAS`, without its namespace. The text is the docstring of the op's fake
    kernel: empty but for schema and errors where Python strips docstrings (`python -OO`).

    Raises SparselthError for an unknown name.
    """
    if op not in _DESCRIPTIONS:
        raise unknown_name("op", op, _DESCRIPTIONS)
    schema = getattr(torch.ops.sparselth, op).default._schema
    return "\n\n".join(part for part in (str(schema), _DESCRIPTIONS[op], _RAISES) if part)


def memory_format(like: Tensor) -> torch.memory_format:
    """Return the layout of a convolution's result: channels_last exactly when `like` has it.

    like: (N, C, H, W). Contiguous where it is both, as an image of one channel is.
    """
    if transformed(like):
        return torch.contiguous_format  # within vmap there is no asking
    if like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def like_weight(gradient: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return a weight's gradient in its layout, so that autograd and optimizers need no copies.

    gradient, weight: (C_out, C_in / groups, kH, kW).  groups: with more than one it is contiguous.
    """
    layout = memory_format(weight) if groups == 1 else torch.contiguous_format
    return gradient.contiguous(memory_format=layout)


def fake(name: str):
    """Return the decorator that registers an op's fake kernel, which checks arguments first.

    name: the op. The fake kernel's docstring is the op's description, see `describe`.
    """

    def register(kernel: Callable[..., Any]) -> Callable[..., Any]:
        _DESCRIPTIONS[name] = inspect.getdoc(kernel) or ""

        def run(*arguments: Any) -> Any:
            check(name, arguments)
            return kernel(*arguments)

        torch.library.register_fake(f"{NAMESPACE}::{name}", run)
        return kernel

    return register
