"""A convolution's settings as the ops take them, from whatever torch's own layers accept."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..ops.contract import ConvSettings
from ..ops.geometry import same_padding


def settings_of(module: Any, dims: int) -> tuple[Any, Any, Any]:
    """Return stride, padding and dilation, each with a number for each of `dims` dimensions.

    torch reads these attributes anew in every forward, and takes single numbers and lists, which
    somebody may have set since the layer was made.  padding: may be "same" or "valid" instead.
    """
    stride, padding, dilation = module.stride, module.padding, module.dilation
    if type(stride) is type(padding) is type(dilation) is tuple and (
        len(stride) == len(padding) == len(dilation) == dims
    ):
        return stride, padding, dilation  # as torch's constructors leave them
    if not isinstance(padding, str):
        padding = _in_full(padding, dims)
    return _in_full(stride, dims), padding, _in_full(dilation, dims)


def _in_full(value: Any, dims: int) -> tuple[Any, ...]:
    """Return a setting as a tuple; one number stands for all dimensions."""
    numbers = tuple(value) if hasattr(value, "__len__") else (value,)
    return numbers * dims if len(numbers) == 1 else numbers


def as_images(weight: Tensor) -> Tensor:
    """Return a weight or mask (C_out, C_in, K) as (C_out, C_in, 1, K); one of images as it is."""
    return weight if weight.dim() == 4 else weight.unsqueeze(2)


def prepared(module: Any, x: Tensor, dims: int) -> tuple[Tensor, ConvSettings]:
    """Return a convolution's input as images, and (stride, padding, dilation, groups) in pairs.

    x: (N, C_in, H, W), or (N, C_in, L) with dims = 1; padded, where two numbers cannot say it.
    """
    stride, padding, dilation = settings_of(module, dims)
    if module.padding_mode != "zeros":
        # torch resolves the other modes into explicit pads, once, when it makes the layer.
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
        padding = (0,) * dims
    if dims == 1:
        x, stride, dilation = x.unsqueeze(2), (1, *stride), (1, *dilation)
        padding = padding if isinstance(padding, str) else (0, *padding)
    if isinstance(padding, str):
        kernel = (1,) * (2 - dims) + tuple(module._slot("weight").shape[2:])
        pads, uneven = same_padding(padding, kernel, stride, dilation)
        x, padding = (F.pad(x, uneven) if any(uneven) else x), tuple(pads)
    return x, (stride, padding, dilation, module.groups)
