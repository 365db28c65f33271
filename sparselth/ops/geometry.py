"""The settings of a convolution as users give them, and as the ops take them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import SupportsIndex

import torch
from torch import Tensor

from ..errors import SparselthError, unknown_name


def as_pair(name: str, value: int | Sequence[int], minimum: int) -> list[int]:
    """Return `value` as [height, width]: of one int, numpy's included, a list of one, or of two."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        pair = [as_int(name, v) for v in values]
    except SparselthError:
        pair = []
    if len(pair) not in (1, 2) or any(v < minimum for v in pair):
        raise SparselthError(f"{name} must be one or two ints >= {minimum}, got {value!r}")
    return pair * (2 // len(pair))


def as_int(name: str, value: int) -> int:
    """Return a whole number, numpy's included, as Python's."""
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value
    if isinstance(value, (bool, Tensor)) or not isinstance(value, SupportsIndex):
        raise SparselthError(f"{name} must be a whole number, got {value!r}")
    try:
        return index(value)
    except TypeError:  # an array of several
        raise SparselthError(f"{name} must be a whole number, got {value!r}") from None


def same_padding(
    padding: str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return what "same" or "valid" stands for: [height, width], and what x is padded by before.

    The second, [left, right, top, bottom], is all zeros but for kernels of even reach: those want
    one more pixel at the end, as in `torch.nn.functional.conv2d`.
    """
    if padding not in ("same", "valid"):
        raise unknown_name("padding", padding, ("same", "valid"))
    if padding == "valid":
        return [0, 0], [0, 0, 0, 0]
    if any(s != 1 for s in stride):
        raise SparselthError(
            f'padding="same" needs a stride of 1, got {list(stride)}; give the padding in pixels'
        )
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    (top, left), (odd_h, odd_w) = [t // 2 for t in total], [t % 2 for t in total]
    return [top, left], [0, odd_w, 0, odd_h]
