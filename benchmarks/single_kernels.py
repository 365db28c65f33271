"""One call of each GPU kernel, compared with its oracle: for compute-sanitizer and for ncu.

python3 benchmarks/single_kernels.py [--large] [NAME...]      names: the functions in KERNELS

A test runner takes longer to start under such tools than they may take. --large: a layer that fills
a GPU, for ncu; else small tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial

import torch
from first_light_conv import CONV, forced, leave_only, masked_passes, needs_kernels
from first_light_rows import DEVICE, DTYPE, HALF, LAST
from torch import Tensor

import sparselth as sl
from sparselth.bench.layers import Layer
from sparselth.ops import reference
from sparselth.ops.gpu import launchers
from sparselth.ops.patterns import find_pattern

LARGE = "--large" in sys.argv
LAYER = Layer(64, 128, 28) if LARGE else Layer(2, 64, 6)
NUMBERS = 1_000_000 if LARGE else 3_000

# Of the norm of a result: sums in another order, rounded once.
MOST_ERROR = {torch.bfloat16: 0.02, torch.float16: 2e-3, torch.float32: 1e-3, torch.float64: 1e-6}

Pairs = Iterable[tuple[Tensor, Tensor]]


def convolution(backend: str, kernel: str, pattern: str, kept: float, dtype: torch.dtype) -> Pairs:
    """Return the passes of a masked layer by one kernel, and the oracle's in float64."""
    shape = (LAYER.channels, LAYER.channels, 3, 3)
    count = max(1, round(kept * find_pattern(pattern).groups(shape)))
    mask = sl.ops.topk_mask(torch.rand(shape, device=DEVICE), count, pattern=pattern)
    images = (LAYER.batch, LAYER.channels, LAYER.size, LAYER.size)
    x, grad = (torch.randn(images, device=DEVICE, dtype=dtype) for _ in range(2))
    x, grad = (t.contiguous(memory_format=LAST) for t in (x, grad))
    weight = torch.randn(shape, device=DEVICE, dtype=dtype)
    leave_only(kernel, mask)
    with forced(backend):
        got = [call() for call in masked_passes(x, weight, grad, mask).values()]
    # Of small tensors on the CPU, where no tool slows the oracle's own kernels down.
    on = DEVICE if LARGE else "cpu"
    x, weight, grad = (t.to(on, torch.float64) for t in (x, weight, grad))
    mask, size = mask.to(on), list(x.shape[2:])
    want = (
        reference.masked_conv2d(x, weight, mask, None, None, *CONV),
        reference.masked_conv2d_grad_input(grad, weight, mask, None, size, *CONV),
        reference.masked_conv2d_grad_weight(grad, x, mask, None, *CONV),
    )
    return zip(got, want, strict=True)


def blocks() -> Pairs:
    needs_kernels("triton")
    for pattern in ("32x32", "16x16", "64x64"):
        yield from convolution("triton", "blocks", pattern, 0.5, DTYPE)


def tma_blocks() -> Pairs:
    needs_kernels("triton")
    for pattern, kept in (("32x32", 0.2), ("64x64", 0.2), ("32x32", 0.8)):
        yield from convolution("triton", "tma_blocks", pattern, kept, HALF)


def halo_blocks() -> Pairs:
    needs_kernels("cuda")
    yield from convolution("cuda", "halo_blocks", "32x32", 0.2, torch.bfloat16)


def column_vectors() -> Pairs:
    needs_kernels("cuda")
    for length in (16, 8):
        kernel, pattern = f"column_vector{length}", f"{length}x1"
        yield from convolution("cuda", kernel, pattern, 0.1, torch.bfloat16)


def unstructured() -> Pairs:
    needs_kernels("cuda")
    yield from convolution("cuda", "unstructured", "element", 0.02, torch.float32)


def lists(kernel: Callable[[str], Callable[..., object]]) -> Pairs:
    """Return what the ops on lists write, and what their oracles do. kernel: by an op's name."""
    given = [[torch.randn(n, device=DEVICE) for n in (NUMBERS, 17)] for _ in range(5)]
    given[3] = [square.abs() for square in given[3]]
    masks = [torch.rand(t.shape, device=DEVICE) < 0.5 for t in given[0]]
    found = []
    for call in (kernel, partial(getattr, reference)):
        w, g, m, v, u = ([t.clone() for t in some] for some in given)
        kept, _ = call("topk_mask")(w, [NUMBERS // 10, 3], False, [])
        call("admm_project_")(w, v, u, [NUMBERS // 10], True, [], False)
        counts = call("weight_overlap")(w, g, masks, [5, 5])
        call("masked_sgd_")(w, g, m, masks, [], [], 0.1, 0.9, 0.0, 0.01, True, 0.0)
        squares = [t.abs() for t in v]
        adam = (3, 0.1, 0.9, 0.99, 1e-8, 0.1, 0.0)
        call("masked_adamw_")(w, g, m, squares, masks, [], [], [], *adam)
        found.append([*w, *m, *squares, *u, *(t.float() for t in [*kept, counts])])
    return zip(*found, strict=True)


def cuda_lists() -> Pairs:
    return lists(partial(getattr, torch.ops.sparselth))


def triton_lists() -> Pairs:
    needs_kernels("triton")
    return lists(launchers.kernel)


KERNELS: dict[str, Callable[[], Pairs]] = {
    "halo_block": halo_blocks,
    "column_vector": column_vectors,
    "unstructured": unstructured,
    "cuda_lists": cuda_lists,
    "tma_blocks": tma_blocks,
    "blocks": blocks,  # from here on kernels are compiled first
    "triton_lists": triton_lists,
}


def main() -> int:
    torch.manual_seed(0)
    names = [word for word in sys.argv[1:] if word != "--large"] or list(KERNELS)
    wrong = []
    for name in names:
        for got, want in KERNELS[name]():
            exact = want.double()
            error = float((got.to(exact) - exact).norm() / exact.norm())
            if not error <= MOST_ERROR[got.dtype]:
                wrong.append(f"{name} differ by {error:.3g} of the norm")
        print(f"{name}: called and compared", flush=True)
    print("; ".join(wrong) or f"as their oracles: {', '.join(names)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
