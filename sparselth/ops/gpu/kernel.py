"""What a convolution kernel of a GPU is to whoever chooses among them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..libraries import has_kernel

# Stride, padding and dilation in pairs, and groups.
Conv = tuple[Sequence[int], Sequence[int], Sequence[int], int]

# Teraflops that cuDNN is expected to reach in 16 bits, beside which the kernels give their own
# rates. Estimates for an H100, nothing measured: only the proportions matter.
RATE_OF_CUDNN = 450.0

# float64 has no tensor cores worth a kernel: the reference serves it.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@cache
def has_cuda_kernels() -> bool:
    """Say whether the convolutions of _C_cuda are there."""
    return has_kernel("unstructured_conv2d", "cuda")


class ConvKernel(ABC):
    """A kernel that serves one mask: made when the mask is looked at.

    mask: bool (C_out, C_in / groups, kH, kW).  input, grad_output: (N, C, H, W) of `dtypes`, on the
    mask's device, contiguous or channels_last; results are in either layout.
    """

    name: ClassVar[str]
    backend: ClassVar[str]  # "triton" or "cuda", by which it is forced
    dtypes: ClassVar[tuple[torch.dtype, ...]] = DTYPES

    relative_time: float
    """The time that it should take, as a share of dense cuDNN's."""

    @classmethod
    @abstractmethod
    def for_mask(cls, mask: Tensor, groups: int) -> ConvKernel | None:
        """Return the kernel for a mask, or None where it cannot serve or gains nothing."""

    def fits(self, shape: Sequence[int], input_hw: Sequence[int], conv: Conv) -> bool:
        """Say whether images of this size can be served.  shape: the mask's."""
        return True

    @abstractmethod
    def forward(
        self, input: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, conv: Any
    ) -> Tensor:
        """Return y (N, C_out, H', W')."""

    def forward_relu(
        self, input: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, conv: Any
    ) -> Tensor:
        """Return max(y, 0)."""
        return self.forward(input, weight, mask, bias, conv).relu_()

    @abstractmethod
    def grad_input(
        self, grad_output: Tensor, weight: Tensor, mask: Tensor, input_hw: Any, conv: Any
    ) -> Tensor:
        """Return dx (N, C_in, *input_hw)."""

    @abstractmethod
    def grad_weight(self, grad_output: Tensor, input: Tensor, mask: Tensor, conv: Any) -> Tensor:
        """Return dw of the mask's shape, zero where it prunes."""
