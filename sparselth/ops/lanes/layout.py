"""The lane layout of activations: images in lanes, channels and pixels outside.

A tensor (N, C, H, W) becomes `buffer` (ceil(N / L), C, H + 2h, W + 2h, L), contiguous: L images
side by side fill one vector register of what they are computed in, so every load of a kernel is one
whole vector whatever the stride, padding and dilation. Around each plane lies a halo of h zeros, so
that a 3x3 convolution reads its padding instead of testing for it. Lanes beyond the batch are zero.

L is the register width of the instruction set the kernels run on: `lanes(dtype)`.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .. import libraries
from ..contract import compute_dtype

_REGISTER_BYTES = {"portable": 16, "avx2": 32, "avx512": 64}

# Most convolutions are 3x3, padded by one; any other reach is served by a copy inside the kernel.
_HALO = 1


def halo(dtype: torch.dtype) -> int:
    """Return what pointwise and pooling ops put around results of `dtype`, in pixels.

    None around 16 bits: whoever reads them widens them into scratch, and puts the padding there.
    """
    return 0 if dtype.itemsize < 4 else _HALO


@cache
def lanes(dtype: torch.dtype) -> int:
    """Return how many images of `dtype` share one vector register here: L.

    dtype: of at most 32 bits (16, 8 or 4 with AVX-512, AVX2 or neither) or float64 (half as many).
    Without the host library 16 and 8: plain PyTorch takes any.
    """
    host = libraries.host()
    computed = compute_dtype(dtype)
    return _REGISTER_BYTES[host.simd_level() if host else "avx512"] // computed.itemsize


def to_lanes(input: Tensor, lanes: int, halo: int) -> Tensor:
    """Lay images out in lanes: out[n // L, c, halo + y, halo + x, n % L] = input[n, c, y, x].

    input: (N, C, H, W), any dtype and device.  lanes: L.  halo: zeros around each plane, in pixels.
    Returns (ceil(N / L), C, H + 2 halo, W + 2 halo, L), contiguous. The oracle of `to_lanes`.
    """
    batch, channels, height, width = input.shape
    bundles = (batch + lanes - 1) // lanes
    shape = (bundles, channels, height + 2 * halo, width + 2 * halo, lanes)
    buffer = input.new_zeros(shape)
    padded = input.new_zeros(bundles * lanes, channels, height, width)
    padded[:batch] = input
    interior(buffer, halo).copy_(
        padded.view(bundles, lanes, channels, height, width).permute(0, 2, 3, 4, 1)
    )
    return buffer


def from_lanes(buffer: Tensor, batch: int, halo: int) -> Tensor:
    """Return the images (batch, C, H, W) of a tensor in lanes, contiguous: `to_lanes` undone.

    buffer: (bundles, C, H + 2 halo, W + 2 halo, L).  batch: how many of its images are there. The
    oracle of `from_lanes`.
    """
    images = interior(buffer, halo).permute(0, 4, 1, 2, 3).flatten(0, 1)
    return images[:batch].clone(memory_format=torch.contiguous_format)


def interior(buffer: Tensor, halo: int) -> Tensor:
    """Return the view of a tensor in lanes without its halo: (bundles, C, H, W, L)."""
    rows, columns = buffer.shape[2:4]
    return buffer[:, :, halo : rows - halo, halo : columns - halo]
