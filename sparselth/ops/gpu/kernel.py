"""What a convolution kernel of a GPU is to whoever chooses among them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from ..contract import ConvSettings
from ..libraries import has_kernel
from .triton_support import why_missing as why_no_triton

# float64 has no tensor cores worth a kernel: the reference serves it.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@cache
def has_cuda_kernels() -> bool:
    """Say whether the convolutions of _C_cuda are there."""
    return has_kernel("unstructured_conv2d", "cuda")


class ConvKernel(ABC):
    """A kernel that serves one mask: made when the mask is looked at.

    What the passes are given, checked by whoever calls them:
    input: (N, C_in, H, W) of one of `dtypes`, on the mask's device, contiguous or channels_last.
    grad_output: (N, C_out, H_out, W_out), likewise.
    weight: (C_out, C_in / groups, kH, kW), the input's dtype.
    mask: bool, its shape: the one that this was made for.
    bias: (C_out,), the input's dtype, or None.
    conv: stride, padding and dilation, [height, width] in pixels each, and groups.
    Results have the input's dtype and either layout.
    """

    name: ClassVar[str]
    backend: ClassVar[str]  # "triton" or "cuda", by which it is forced
    dtypes: ClassVar[tuple[torch.dtype, ...]] = DTYPES

    serves: ClassVar[str]  # besides `dtypes`, what masks and geometry, in a few words

    relative_time: float
    """The time that it should take, as a share of dense cuDNN's."""

    @classmethod
    @abstractmethod
    def for_mask(cls, mask: Tensor, groups: int) -> ConvKernel | None:
        """Return the kernel for a mask, or None where it cannot serve or gains nothing.

        mask: bool (C_out, C_in / groups, kH, kW), on a GPU: looking at it waits for that.
        """

    @classmethod
    def why_missing(cls, device: torch.device) -> str:
        """Say why no mask can be served on this GPU; nothing where masks can."""
        if cls.backend == "triton":
            return why_no_triton()
        return "" if has_cuda_kernels() else "sparselth was built without _C_cuda"

    def fits(self, shape: Sequence[int], input_hw: Sequence[int], conv: ConvSettings) -> bool:
        """Say whether images of this size can be served, in all passes.

        shape: the mask's.  input_hw: (H, W) in pixels.
        """
        return True

    @abstractmethod
    def forward(
        self, input: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, conv: ConvSettings
    ) -> Tensor:
        """Return y = conv2d(x, w * mask) + bias, (N, C_out, H_out, W_out)."""

    def forward_relu(
        self, input: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, conv: ConvSettings
    ) -> Tensor:
        """Return max(y, 0), of `forward`; NaN stays NaN."""
        return self.forward(input, weight, mask, bias, conv).relu_()

    @abstractmethod
    def grad_input(
        self,
        grad_output: Tensor,
        weight: Tensor,
        mask: Tensor,
        input_hw: Sequence[int],
        conv: ConvSettings,
    ) -> Tensor:
        """Return dx (N, C_in, *input_hw).  input_hw: (H, W) of the input, in pixels."""

    @abstractmethod
    def grad_weight(
        self, grad_output: Tensor, input: Tensor, mask: Tensor, conv: ConvSettings
    ) -> Tensor:
        """Return dw, contiguous, of the mask's shape, exactly zero where it prunes."""
