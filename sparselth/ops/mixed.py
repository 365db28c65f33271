"""A dense forward with the autograd formulas of the sparse ops: layers served pass by pass.

The passes of the backward are picked in the formulas themselves (`autograd.py`), from the table in
`parameter_masks.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import autograd, reference
from .lanes import as_lanes
from .lanes_tensor import LaneTensor


class DenseForwardConv2d(torch.autograd.Function):
    """`masked_conv2d` computed densely; a result for x in lanes goes on in lanes."""

    @staticmethod
    def forward(input, weight, mask, bias, plan, stride, padding, dilation, groups) -> Tensor:
        conv = (stride, padding, dilation, groups)
        out = reference.masked_conv2d(input, weight, mask, bias, None, *conv)
        return as_lanes(out) if isinstance(input, LaneTensor) else out

    setup_context = staticmethod(autograd.conv_setup)
    backward = staticmethod(autograd.conv_backward)


class DenseForwardLinear(torch.autograd.Function):
    """`masked_linear` computed densely.  input: (rows, C_in)."""

    @staticmethod
    def forward(input, weight, mask, bias, plan) -> Tensor:
        return reference.masked_linear(input, weight, mask, bias, None)

    setup_context = staticmethod(autograd.linear_setup)
    backward = staticmethod(autograd.linear_backward)
