"""Experiments with convolutions: cuDNN pass by pass, and the kernels for masks against it.

Every result is compared with cuDNN's before it is timed: a wrong kernel may be fast.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from first_light_rows import DEVICE, DRY, DTYPE, HALF, LAST, keep, kept, microseconds, say
from gpu_timing import cudnn, kernel_microseconds, require_cudnn
from torch import Tensor

import sparselth as sl
from sparselth.bench.layers import Layer
from sparselth.ops import reference
from sparselth.ops.gpu import conv as gpu_conv
from sparselth.ops.gpu.candidates import KERNELS, candidates_for
from sparselth.ops.gpu.kernel import has_cuda_kernels
from sparselth.ops.patterns import find_pattern
from sparselth.ops.switches import forcing

LAYERS = (
    *(Layer(64, 128, 28), Layer(128, 256, 14), Layer(64, 64, 32), Layer(64, 256, 8)),
    Layer(256, 512, 7),
)
if DRY:
    LAYERS = (Layer(1, 64, 5),)
CONV = ([1, 1], [1, 1], [1, 1], 1)
CUDNN = "cuDNN bf16, channels_last, in a graph"
# Of the norm of a result: two roundings to bfloat16 of sums in different orders.
MOST_ERROR = 0.02

Pass = Callable[[], Tensor]


def tensors(layer: Layer, dtype: torch.dtype = DTYPE) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x, weight and the gradient of the output, channels_last."""
    shape = (layer.batch, layer.channels, layer.size, layer.size)
    x, grad = (torch.randn(shape, device=DEVICE, dtype=dtype) for _ in range(2))
    weight = torch.randn(layer.channels, layer.channels, 3, 3, device=DEVICE, dtype=dtype)
    return tuple(t.contiguous(memory_format=LAST) for t in (x, weight / layer.channels, grad))


def flops(layer: Layer) -> float:
    """Return the operations of one dense pass."""
    return 2.0 * layer.batch * layer.size**2 * layer.channels**2 * 9


def dense_passes(x: Tensor, weight: Tensor, grad: Tensor) -> dict[str, Pass]:
    """Return the three passes of cuDNN's convolution."""
    back = partial(reference.convolution_backward, grad, x, weight, CONV)
    return {
        "forward": lambda: F.conv2d(x, weight, padding=1),
        "input gradient": lambda: back([True, False, False])[0],
        "weight gradient": lambda: back([False, True, False])[1],
    }


def masked_passes(x: Tensor, weight: Tensor, grad: Tensor, mask: Tensor) -> dict[str, Pass]:
    """Return the three passes of whichever kernel of ours is forced."""
    candidates_for(mask, 1)  # looked at before anything is timed
    size = list(x.shape[2:])
    return {
        "forward": lambda: gpu_conv.masked_conv2d(x, weight, mask, None, None, *CONV),
        "input gradient": lambda: gpu_conv.masked_conv2d_grad_input(
            grad, weight, mask, None, size, *CONV
        ),
        "weight gradient": lambda: gpu_conv.masked_conv2d_grad_weight(grad, x, mask, None, *CONV),
    }


def dense() -> None:
    """Time cuDNN's passes, its algorithms chosen by trying them. The baseline of all else."""
    with cudnn():
        require_cudnn()
        for layer in LAYERS:
            for name, call in dense_passes(*tensors(layer)).items():
                us = microseconds(call)
                keep(f"dense, {name}", str(layer), 0.0, {"dense": us}, TF=flops(layer) / us / 1e6)


def masks(
    layer: Layer, pattern: str, sparsities: tuple[float, ...]
) -> Iterator[tuple[float, Tensor]]:
    """Draw masks of a pattern, each behind its sparsity."""
    shape = (layer.channels, layer.channels, 3, 3)
    groups = find_pattern(pattern).groups(shape)
    for sparsity in sparsities:
        count = max(1, round((1 - sparsity) * groups))
        mask = sl.ops.topk_mask(torch.rand(shape, device=DEVICE), count, pattern=pattern)
        yield sparsity, mask


@contextmanager
def forced(backend: str) -> Iterator[None]:
    """Force a backend, also where the interpreter stands in for it."""
    if not DRY:
        with sl.use_backend(backend):
            yield
        return
    with forcing(backend):
        yield


def leave_only(kernel: str, mask: Tensor) -> None:
    """Let one kernel alone serve a mask, whichever should be faster."""
    candidates = candidates_for(mask, 1)
    candidates.kernels = [k for k in candidates.kernels if k.name == kernel]
    if not candidates.kernels:
        missing = next(k for k in KERNELS if k.name == kernel).why_missing(mask.device)
        raise SystemExit(f"{kernel}: {missing or 'does not serve this mask'}")


def compare(
    backend: str, pattern: str, layer: Layer, sparsities: tuple[float, ...], only: str = ""
) -> None:
    """Time every pass of a backend on masks of a pattern, and keep the ratio to cuDNN's.

    only: the kernel to be timed; else the one that is expected to be fastest.
    """
    x, weight, grad = tensors(layer, HALF if only == "tma_blocks" else DTYPE)
    for sparsity, mask in masks(layer, pattern, sparsities):
        exact = dense_passes(x, reference.apply_mask(weight, mask), grad)
        if only:
            leave_only(only, mask)
        with forced(backend):
            ours = masked_passes(x, weight, grad, mask)
            kernel = candidates_for(mask, 1).choose(x.dtype).name
            for name, call in ours.items():
                error = difference(call(), reference_of(exact, name, mask))
                us = microseconds(call)
                values = {"sparse": us} | against(layer, name)
                rate = float(mask.float().mean()) * flops(layer) / us / 1e6
                over = CUDNN if "dense" in values else ""
                more = {"kernel": kernel, "TF_of_kept": round(rate, 1), "error": error}
                keep(
                    f"masked_conv2d, {name}", f"{layer}, {pattern}", sparsity, values, over, **more
                )
            if sparsity == 0.9 and layer in LAYERS[:2] and not DRY:  # a profile takes its time
                for name, call in ours.items():
                    say(f"kernels of {layer}, {pattern}, {name}", us=kernel_microseconds(call))


def reference_of(exact: dict[str, Pass], name: str, mask: Tensor) -> Tensor:
    """Return what a pass must agree with."""
    with cudnn():
        found = exact[name]()
    return reference.apply_mask(found, mask) if name == "weight gradient" else found


def against(layer: Layer, name: str) -> dict[str, float]:
    """Return cuDNN's time of a pass as `dense` kept it; nothing where that has not run."""
    return kept(f"dense, {name}", str(layer)) or {}


def difference(got: Tensor, want: Tensor) -> float:
    """Return the error relative to the norm; raises AssertionError where it is no rounding."""
    error = float((got.float() - want.float()).norm() / want.float().norm())
    assert error < MOST_ERROR, f"wrong by {error:.3g} of the norm"
    return float(f"{error:.2g}")


def needs_kernels(which: str) -> None:
    """Say plainly what is missing, instead of measuring something else in its place."""
    if which == "triton" and DRY and os.environ.get("TRITON_INTERPRET") != "1":
        raise SystemExit("no GPU: set TRITON_INTERPRET=1 to try the kernels in the interpreter")
    if which == "cuda" and not has_cuda_kernels():
        raise SystemExit("sparselth was built without _C_cuda, so there is nothing to measure")


def blocks() -> None:
    """Time the Triton kernels on masks of whole blocks."""
    needs_kernels("triton")
    for pattern in ("32x32", "64x64", "16x16"):
        for layer in LAYERS:
            compare("triton", pattern, layer, (0.9,) if DRY else (0.9, 0.5, 0.95), "blocks")


def scattered() -> None:
    """Time the CUDA kernels on blocks, vectors and single weights."""
    needs_kernels("cuda")
    needs_kernels("triton")
    patterns = {"32x32": (0.9, 0.95, 0.5), "16x1": (0.9, 0.95), "element": (0.98,), "8x1": (0.95,)}
    for pattern, sparsities in patterns.items():
        for layer in LAYERS[:4]:
            compare("cuda", pattern, layer, sparsities)


def tma() -> None:
    """Time blocks whose pixels are copied by the hardware: the choice's shape, then each shape."""
    needs_kernels("triton")
    for pattern in ("32x32", "64x64"):
        for layer in LAYERS:
            compare("triton", pattern, layer, (0.9,) if DRY else (0.9, 0.95), "tma_blocks")
    from sparselth.kernels import masked_conv2d_tma, wide_blocks

    for layer in LAYERS[:2]:
        x, weight, grad = tensors(layer, HALF)
        for sparsity, mask in masks(layer, "32x32", (0.9, 0.5)):
            want = reference_of(
                dense_passes(x, reference.apply_mask(weight, mask), grad), "forward", mask
            )
            for shape in wide_blocks.SHAPES:
                index = wide_blocks.cheapest_wide_blocks(mask, {shape: 1.0})
                packed = masked_conv2d_tma.pack(weight, mask, index)
                run = partial(
                    masked_conv2d_tma.masked_conv2d_tma, x, packed, None, index, *CONV[1:3]
                )
                _one_shape(layer, shape, sparsity, run, want)


def _one_shape(layer: Layer, shape, sparsity: float, run: Pass, want: Tensor) -> None:
    error, us = difference(run(), want), microseconds(run)
    values = {"sparse": us} | against(layer, "forward")
    rate = (1 - sparsity) * flops(layer) / us / 1e6
    problem = f"{layer}, 32x32 by blocks of {shape[0]}x{shape[1]}"
    over = CUDNN if "dense" in values else ""
    keep("forward by TMA", problem, sparsity, values, over, TF_of_kept=round(rate, 1), error=error)
